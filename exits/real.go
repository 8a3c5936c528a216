package exits

// realParts are the parts of the cell itself.
func realParts(*Config) *Parts {
	return &Parts{Routed: routed}
}

// lack reports whether a part that the exit consists of can't be made.
func (p *Parts) lack(e *Exit) bool {
	return e.Link != "" && p.Routed == nil || e.RelayPort != 0 && p.Relay == nil || len(e.Socks) > 0 && p.Socks == nil ||
		(e.OpenVPN != nil || e.Tor != nil) && p.Child == nil || (e.SSH != nil || e.Proxy != nil) && p.Upstream == nil
}
