package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
)

// Peer is a device with its counters.
type Peer struct {
	Name         string            `json:"name"`
	PublicKey    cell.Key          `json:"public_key"`
	Address4     string            `json:"address4"`
	Address6     string            `json:"address6"`
	Destinations cell.Destinations `json:"destinations" enum:"full,split"`
	Keepalive    uint16            `json:"keepalive" doc:"seconds; 0 is off"`
	Exit         string            `json:"exit" doc:"an exit's id; direct or empty: the uplink"`
	Expires      *time.Time        `json:"expires"`
	Enabled      bool              `json:"enabled"`
	Note         string            `json:"note"`
	Owner        string            `json:"owner"`
	Trust        cell.Trust        `json:"trust" enum:"owner,family,guest"`
	Services     []string          `json:"services" nullable:"false"`
	Peers        []string          `json:"peers" nullable:"false"`
	LAN          []string          `json:"lan" nullable:"false"`
	Created      time.Time         `json:"created"`
	ExitUntil    *time.Time        `json:"exit_until" doc:"when exit becomes exit_then; null: never"`
	ExitThen     string            `json:"exit_then"`
	ExitChoice   []string          `json:"exit_choice" nullable:"false" doc:"what its owner may choose from; * is every exit, chain and block"`
	Socks        []string          `json:"socks" nullable:"false" doc:"exits whose SOCKS server it may use"`
	PresharedKey bool              `json:"preshared_key" doc:"whether it has one"`
	FQDN         string            `json:"fqdn"`
	PeerStats
}

// PeerFields are what a client may set. Absent fields keep their default (on
// creation) or their value (on change).
type PeerFields struct {
	PublicKey    *cell.Key          `json:"public_key,omitempty" maxLength:"44"`
	PresharedKey *bool              `json:"preshared_key,omitempty" doc:"default true"`
	Destinations *cell.Destinations `json:"destinations,omitempty" enum:"full,split"`
	Keepalive    *uint16            `json:"keepalive,omitempty" doc:"seconds; default 25" minimum:"0" maximum:"65535"`
	Exit         *string            `json:"exit,omitempty" maxLength:"63"`
	Expires      *time.Time         `json:"expires,omitempty"`
	NeverExpires bool               `json:"never_expires,omitempty" doc:"clears expires"`
	Enabled      *bool              `json:"enabled,omitempty"`
	Note         *string            `json:"note,omitempty" maxLength:"500"`
	Owner        *string            `json:"owner,omitempty" maxLength:"64"`
	Trust        *cell.Trust        `json:"trust,omitempty" enum:"owner,family,guest"`
	Services     []string           `json:"services,omitempty" maxItems:"500"`
	Peers        []string           `json:"peers,omitempty" maxItems:"500"`
	LAN          []string           `json:"lan,omitempty" maxItems:"100"`
	ExitUntil    *time.Time         `json:"exit_until,omitempty" doc:"exit is for a time only; a new exit without it is for good"`
	ExitThen     *string            `json:"exit_then,omitempty" maxLength:"63" doc:"what exit becomes then; default direct"`
	NoExitUntil  bool               `json:"no_exit_until,omitempty" doc:"clears exit_until and exit_then"`
	ExitChoice   []string           `json:"exit_choice,omitempty" maxItems:"100"`
	Socks        []string           `json:"socks,omitempty" maxItems:"60"`
}

type newPeer struct {
	Name        string `json:"name" maxLength:"63"`
	GenerateKey bool   `json:"generate_key,omitempty" doc:"make the pair on the cell; it is shown once and not stored"`
	PeerFields
}

// PeerCreated carries what is shown once.
type PeerCreated struct {
	Peer       Peer   `json:"peer"`
	Config     string `json:"config" doc:"a wg-quick file; its PrivateKey line is empty unless the cell made the key"`
	FileName   string `json:"filename"`
	PrivateKey string `json:"private_key" doc:"only with generate_key"`
}

type addPeerIn struct {
	Write
	Body newPeer
}

type peerNameIn struct {
	Name string `path:"name" maxLength:"63"`
}

type putPeerIn struct {
	Write
	Name string `path:"name" maxLength:"63"`
	Body struct {
		Name string `json:"name,omitempty" maxLength:"63" doc:"a new name"`
		PeerFields
	}
}

type removePeerIn struct {
	Write
	Name string `path:"name" maxLength:"63"`
}

func (a *API) peerRoutes() {
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/peers", "list-peers", "peers", "All peers with their counters")},
		func(ctx context.Context, _ *struct{}) (*Out[List[Peer]], error) {
			s, _ := a.cfg.Engine.Running()
			stats := a.peerStats(ctx)
			out := make([]Peer, 0, len(s.Peers))
			for i := range s.Peers {
				out = append(out, peerOf(s, &s.Peers[i], stats))
			}
			return ok(list(out))
		})
	register(a, Route{Access: auth.AccessAdmin, Operation: op("POST", "/api/peers", "add-peer", "peers", "Add a peer")}, a.addPeer)
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/peers/{name}", "show-peer", "peers", "One peer")},
		func(ctx context.Context, in *peerNameIn) (*Out[Peer], error) {
			s, p, err := a.peer(in.Name)
			if err != nil {
				return nil, err
			}
			out, _ := ok(peerOf(s, p, a.peerStats(ctx)))
			out.ETag = a.etag("peers/" + in.Name)
			return out, nil
		})
	register(a, Route{Access: auth.AccessAdmin, Operation: op("PUT", "/api/peers/{name}", "change-peer", "peers", "Change a peer; absent fields stay")}, a.changePeer)
	register(a, Route{Access: auth.AccessAdmin, Operation: op("DELETE", "/api/peers/{name}", "remove-peer", "peers", "Remove a peer; its key is no longer accepted")}, a.removePeer)
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/peers/{name}/config", "peer-config", "peers", "The wg-quick file; PrivateKey is empty, because the cell does not hold it")}, a.peerConfig)
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/peers/{name}/qr", "peer-qr", "peers", "The same as a QR code (SVG)")}, a.peerQR)
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/peers/{name}/stats", "peer-stats", "peers", "A peer's counters")},
		func(ctx context.Context, in *peerNameIn) (*Out[PeerStats], error) {
			_, p, err := a.peer(in.Name)
			if err != nil {
				return nil, err
			}
			return ok(a.peerStats(ctx)[p.PublicKey])
		})
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/wireguard/status", "wireguard-status", "peers", "The tunnel's device and its peers")}, a.wireguardStatus)
	register(a, Route{Access: auth.AccessAdmin, Reauth: true, Operation: op("POST", "/api/wireguard/keys", "wireguard-keys", "peers", "Make a key pair; nothing is stored")},
		func(context.Context, *struct{ Body Empty }) (*Out[KeyPair], error) {
			private, public := a.cfg.GenerateKey()
			return ok(KeyPair{private.Reveal(), public})
		})
}

// KeyPair is a WireGuard key pair, made for the caller and forgotten.
type KeyPair struct {
	PrivateKey string   `json:"private_key"`
	PublicKey  cell.Key `json:"public_key"`
}

func (a *API) peer(name string) (*cell.State, *cell.Peer, error) {
	s, _ := a.cfg.Engine.Running()
	p := s.Peer(name)
	if p == nil {
		return nil, nil, notFound("peer", name)
	}
	return s, p, nil
}

// peerStats are the device's counters; none when the device can't be read
// (its condition says why).
func (a *API) peerStats(ctx context.Context) map[cell.Key]PeerStats {
	t, err := a.cfg.Tunnel(ctx)
	if err != nil {
		a.cfg.Log.Debug("reading the tunnel", "error", err)
		return nil
	}
	return t.Peers
}

func peerOf(s *cell.State, p *cell.Peer, stats map[cell.Key]PeerStats) Peer {
	return Peer{
		Name: p.Name, PublicKey: p.PublicKey, Address4: p.Address4.String(), Address6: p.Address6.String(),
		Destinations: p.Destinations, Keepalive: p.Keepalive, Exit: p.Exit, Expires: p.Expires, Enabled: p.Enabled,
		Note: p.Note, Owner: p.Owner, Trust: p.Trust, Services: some(p.Services), Peers: some(p.Peers), LAN: some(p.LAN),
		Created: p.Created, ExitUntil: p.ExitUntil, ExitThen: p.ExitThen, ExitChoice: some(p.ExitChoice), Socks: some(p.Socks), PresharedKey: p.PresharedKey != "", FQDN: s.PeerName(p), PeerStats: stats[p.PublicKey],
	}
}

func some(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// apply writes the given fields over p. Slices are replaced, never written
// through, because states share them.
func (f *PeerFields) apply(p *cell.Peer) {
	set(&p.PublicKey, f.PublicKey)
	set(&p.Destinations, f.Destinations)
	set(&p.Keepalive, f.Keepalive)
	f.applyExit(p)
	set(&p.Enabled, f.Enabled)
	set(&p.Note, f.Note)
	set(&p.Owner, f.Owner)
	set(&p.Trust, f.Trust)
	if f.Expires != nil {
		t := f.Expires.UTC().Truncate(time.Second)
		p.Expires = &t
	}
	if f.NeverExpires {
		p.Expires = nil
	}
	if f.Services != nil {
		p.Services = slices.Clone(f.Services)
	}
	if f.Peers != nil {
		p.Peers = slices.Clone(f.Peers)
	}
	if f.LAN != nil {
		p.LAN = slices.Clone(f.LAN)
	}
}

func set[T any](dst *T, src *T) {
	if src != nil {
		*dst = *src
	}
}

// defaultServices are the grants that go with a degree of trust.
func defaultServices(t cell.Trust) []string {
	if t == cell.TrustGuest {
		return []string{}
	}
	return []string{cell.GrantAll}
}

func (a *API) addPeer(ctx context.Context, in *addPeerIn) (*Out[PeerCreated], error) {
	b := &in.Body
	if (b.PublicKey != nil) == b.GenerateKey {
		return nil, invalid("/public_key", "give either public_key (made on the device) or generate_key: true")
	}
	p := cell.Peer{
		Name: b.Name, Destinations: cell.FullTunnel, Keepalive: 25, Enabled: true, Trust: cell.TrustFamily,
		Created: a.cfg.Now().UTC().Truncate(time.Second),
	}
	b.apply(&p)
	if b.Services == nil {
		p.Services = defaultServices(p.Trust)
	}
	p.Peers, p.LAN = some(p.Peers), some(p.LAN)
	if p.Expires != nil && p.Expires.Before(a.cfg.Now()) {
		return nil, invalid("/expires", "expires must lie in the future")
	}
	var private cell.Secret
	if b.GenerateKey {
		private, p.PublicKey = a.cfg.GenerateKey()
	}
	psk, secrets := a.newPSK(&p, b.PresharedKey == nil || *b.PresharedKey)
	r, err := a.commit(ctx, in.Write, change{
		resource: "peers/" + p.Name, message: "add peer " + p.Name, secrets: secrets,
		edit: func(s *cell.State) error {
			if s.Peer(p.Name) != nil {
				return problem(http.StatusConflict, "conflict", "there is already a peer %q", p.Name)
			}
			v4, v6, err := s.FreeAddresses()
			if err != nil {
				return invalid("/name", "%v", err)
			}
			q := p
			q.Address4, q.Address6 = v4, v6
			s.Peers = append(s.Peers, q)
			return nil
		},
	})
	if err != nil {
		return nil, peerPointers(err)
	}
	made := r.State.Peer(p.Name)
	text, err := a.cfg.ClientConfig(r.State, a.cfg.Engine.Facts(), made, psk, private.Reveal())
	if err != nil {
		a.cfg.Log.Warn("rendering a client configuration", "peer", p.Name, "error", err)
		text = ""
	}
	body := PeerCreated{peerOf(r.State, made, nil), text, a.cfg.FileName(p.Name), private.Reveal()}
	return answer(a, r, "peers/"+p.Name, http.StatusCreated, body), nil
}

// newPSK makes a preshared key under a new reference when one is wanted.
func (a *API) newPSK(p *cell.Peer, want bool) (cell.Secret, map[cell.SecretRef]cell.Secret) {
	if !want {
		p.PresharedKey = ""
		return cell.Secret{}, nil
	}
	psk := a.cfg.GeneratePSK()
	p.PresharedKey = a.cfg.NewRef("psk")
	return psk, map[cell.SecretRef]cell.Secret{p.PresharedKey: psk}
}

// peerPointers makes the state's pointers relative to the request where they
// are about this peer.
func peerPointers(err error) error {
	bad, is := err.(*cell.InvalidError)
	if !is {
		return err
	}
	out := &cell.InvalidError{}
	for _, f := range bad.Fields {
		var i int
		var rest string
		if n, _ := fmt.Sscanf(f.Pointer, "/peers/%d/%s", &i, &rest); n == 2 {
			f.Pointer = "/" + rest
		}
		out.Fields = append(out.Fields, f)
	}
	return out
}

func (a *API) changePeer(ctx context.Context, in *putPeerIn) (*Out[Peer], error) {
	_, old, err := a.peer(in.Name)
	if err != nil {
		return nil, err
	}
	var (
		f       = in.Body.PeerFields
		ref     = cell.Peer{PresharedKey: old.PresharedKey}
		secrets map[cell.SecretRef]cell.Secret
		name    = in.Name
	)
	if f.PresharedKey != nil && *f.PresharedKey != (old.PresharedKey != "") {
		_, secrets = a.newPSK(&ref, *f.PresharedKey)
	}
	if in.Body.Name != "" {
		name = in.Body.Name
	}
	r, err := a.commit(ctx, in.Write, change{
		resource: "peers/" + in.Name, message: "change peer " + in.Name, secrets: secrets,
		edit: func(s *cell.State) error {
			p := s.Peer(in.Name)
			if p == nil {
				return notFound("peer", in.Name)
			}
			f.apply(p)
			p.PresharedKey = ref.PresharedKey
			if name != in.Name {
				renamePeer(s, in.Name, name)
			}
			return nil
		},
	})
	if err != nil {
		return nil, peerPointers(err)
	}
	return answer(a, r, "peers/"+name, http.StatusOK, peerOf(r.State, r.State.Peer(name), a.peerStats(ctx))), nil
}

// renamePeer changes the name and every grant and forward that names it.
func renamePeer(s *cell.State, old, name string) {
	for i := range s.Peers {
		p := &s.Peers[i]
		if p.Name == old {
			p.Name = name
		}
		if j := slices.Index(p.Peers, old); j >= 0 {
			p.Peers = slices.Clone(p.Peers)
			p.Peers[j] = name
		}
	}
	for i := range s.Network.Forwards {
		if s.Network.Forwards[i].Peer == old {
			s.Network.Forwards[i].Peer = name
		}
	}
}

func (a *API) removePeer(ctx context.Context, in *removePeerIn) (*NoContent, error) {
	if _, _, err := a.peer(in.Name); err != nil {
		return nil, err
	}
	r, err := a.commit(ctx, in.Write, change{
		resource: "peers/" + in.Name, message: "remove peer " + in.Name,
		edit: func(s *cell.State) error { return removePeer(s, in.Name) },
	})
	if err != nil {
		return nil, err
	}
	return noContent(r), nil
}

// removePeer takes the peer out, and with it the grants to it and the forwards
// to it, which would otherwise name nobody.
func removePeer(s *cell.State, name string) error {
	if s.Peer(name) == nil {
		return notFound("peer", name)
	}
	keep := make([]cell.Peer, 0, len(s.Peers)-1)
	for _, p := range s.Peers {
		if p.Name == name {
			continue
		}
		if slices.Contains(p.Peers, name) {
			p.Peers = slices.DeleteFunc(slices.Clone(p.Peers), func(x string) bool { return x == name })
		}
		keep = append(keep, p)
	}
	s.Peers = keep
	s.Network.Forwards = slices.DeleteFunc(slices.Clone(s.Network.Forwards), func(f cell.Forward) bool { return f.Peer == name })
	return nil
}

func (a *API) clientConfig(name string) (string, error) {
	s, p, err := a.peer(name)
	if err != nil {
		return "", err
	}
	var psk cell.Secret
	if p.PresharedKey != "" {
		if psk, err = a.cfg.Secret(p.PresharedKey); err != nil {
			return "", err
		}
	}
	text, err := a.cfg.ClientConfig(s, a.cfg.Engine.Facts(), p, psk, "")
	if err != nil {
		return "", problem(http.StatusConflict, "conflict", "%v", err)
	}
	return text, nil
}

type peerConfigOut struct {
	ContentType        string `header:"Content-Type"`
	ContentDisposition string `header:"Content-Disposition"`
	Notice             string `header:"Pic-Notice"`
	Body               []byte
}

const emptyKeyNotice = "the PrivateKey line is empty: the cell never held this key; put the device's own key there"

func (a *API) peerConfig(_ context.Context, in *peerNameIn) (*peerConfigOut, error) {
	text, err := a.clientConfig(in.Name)
	if err != nil {
		return nil, err
	}
	return &peerConfigOut{"text/plain; charset=utf-8", `attachment; filename="` + a.cfg.FileName(in.Name) + `"`, emptyKeyNotice, []byte(text)}, nil
}

func (a *API) peerQR(_ context.Context, in *peerNameIn) (*peerConfigOut, error) {
	text, err := a.clientConfig(in.Name)
	if err != nil {
		return nil, err
	}
	svg, err := QRSVG(text)
	if err != nil {
		return nil, err
	}
	return &peerConfigOut{"image/svg+xml", "inline", emptyKeyNotice, svg}, nil
}

// WireGuardStatus is the device with its peers.
type WireGuardStatus struct {
	Backend    string          `json:"backend"`
	Interface  string          `json:"interface"`
	ListenPort uint16          `json:"listen_port"`
	PublicKey  cell.Key        `json:"public_key"`
	Endpoint   string          `json:"endpoint"`
	Prefix4    string          `json:"prefix4"`
	Prefix6    string          `json:"prefix6"`
	Condition  cell.Condition  `json:"condition"`
	Peers      []WireGuardPeer `json:"peers" nullable:"false"`
}

// WireGuardPeer is one peer of the device.
type WireGuardPeer struct {
	Name string `json:"name"`
	PeerStats
}

func (a *API) wireguardStatus(ctx context.Context, _ *struct{}) (*Out[WireGuardStatus], error) {
	s, _ := a.cfg.Engine.Running()
	t := s.Network.Tunnel
	out := WireGuardStatus{
		Backend: "none", Interface: cell.TunnelLink, ListenPort: t.ListenPort, PublicKey: t.PublicKey, Endpoint: t.Endpoint,
		Prefix4: t.Prefix4.String(), Prefix6: t.Prefix6.String(), Peers: []WireGuardPeer{},
	}
	out.Condition, _ = a.condition("tunnel")
	st, err := a.cfg.Tunnel(ctx)
	if err == nil {
		out.Backend = st.Backend
	}
	for i := range s.Peers {
		out.Peers = append(out.Peers, WireGuardPeer{s.Peers[i].Name, st.Peers[s.Peers[i].PublicKey]})
	}
	return ok(out)
}
