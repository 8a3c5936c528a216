package api

import (
	"cmp"
	"crypto/ecdh"
	"encoding/base64"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/personal-internet-cell/pic/cell"
)

// ExitFields are what a client may set of an exit: a pasted configuration, or
// single fields. Absent fields keep their default (on creation) or their value
// (on change); so do secrets.
type ExitFields struct {
	Name       *string  `json:"name,omitempty" maxLength:"100"`
	Config     *string  `json:"config,omitempty" maxLength:"65536" doc:"what the provider gave: a wg-quick file, an .ovpn profile, user@host, a proxy's URL, Tor's countries and bridges"`
	Username   *string  `json:"username,omitempty" maxLength:"255"`
	Password   *string  `json:"password,omitempty" maxLength:"1024" doc:"kept among the secrets and never shown"`
	PrivateKey *string  `json:"private_key,omitempty" maxLength:"65536" doc:"an SSH key in PEM, or a WireGuard key"`
	Passphrase *string  `json:"passphrase,omitempty" maxLength:"1024" doc:"opens private_key; not kept"`
	Enabled    *bool    `json:"enabled,omitempty"`
	Socks      *bool    `json:"socks,omitempty" doc:"offer a SOCKS server to peers that are granted it"`
	Probes     []string `json:"probes,omitempty" maxItems:"8" doc:"addresses and ports that health checks connect to"`
	Address4   *string  `json:"address4,omitempty" maxLength:"45"`
	Address6   *string  `json:"address6,omitempty" maxLength:"45"`

	WireGuard *ExitWireGuardFields `json:"wireguard,omitempty"`
	Tor       *ExitTorFields       `json:"tor,omitempty"`
	SSH       *ExitSSHFields       `json:"ssh,omitempty"`
	Proxy     *ExitProxyFields     `json:"proxy,omitempty"`
}

// ExitWireGuardFields are the fields of a WireGuard exit.
type ExitWireGuardFields struct {
	PeerKey      *cell.Key `json:"peer_key,omitempty" maxLength:"44"`
	PresharedKey *string   `json:"preshared_key,omitempty" maxLength:"44" doc:"empty: none"`
	Endpoint     *string   `json:"endpoint,omitempty" maxLength:"300"`
	AllowedIPs   []string  `json:"allowed_ips,omitempty" maxItems:"64"`
	Keepalive    *uint16   `json:"keepalive,omitempty" minimum:"0" maximum:"65535"`
	MTU          *int      `json:"mtu,omitempty"`
	DNS          []string  `json:"dns,omitempty" maxItems:"4"`
}

// ExitTorFields are the fields of a Tor exit.
type ExitTorFields struct {
	Countries []string `json:"countries,omitempty" maxItems:"64"`
	Bridges   []string `json:"bridges,omitempty" maxItems:"32"`
}

// ExitSSHFields are the fields of an SSH exit.
type ExitSSHFields struct {
	Host    *string `json:"host,omitempty" maxLength:"253"`
	Port    *uint16 `json:"port,omitempty" minimum:"1" maximum:"65535"`
	User    *string `json:"user,omitempty" maxLength:"255"`
	HostKey *string `json:"host_key,omitempty" maxLength:"4096" doc:"the pinned key; empty: pin the next one that is seen"`
}

// ExitProxyFields are the fields of a proxy exit.
type ExitProxyFields struct {
	Protocol *cell.ProxyProtocol `json:"protocol,omitempty" enum:"socks5,http,https"`
	Host     *string             `json:"host,omitempty" maxLength:"253"`
	Port     *uint16             `json:"port,omitempty" minimum:"1" maximum:"65535"`
}

// exitChange is a change of one exit, made before the edit: values parsed,
// secrets under new references. Its apply is deterministic.
type exitChange struct {
	a       *API
	f       *ExitFields
	t       cell.ExitType
	draft   *cell.ExitDraft // nil: no text was given
	bad     []cell.FieldError
	secrets map[cell.SecretRef]cell.Secret

	credentials, psk, profile cell.SecretRef // new ones; "" leaves the old
	dropPSK                   bool
	auth                      cell.SSHAuth // of new credentials
	public                    cell.Key     // of a new WireGuard key
	probes                    []netip.AddrPort
	address4, address6        *netip.Addr
	allowed                   []netip.Prefix
	dns                       []netip.Addr
	hostKey                   *string
}

var askedFor = map[string]string{
	"username":    "who logs in? The configuration does not say",
	"password":    "a password is needed",
	"private_key": "give the private key in PEM, or a password",
	"passphrase":  "the private key is locked: enter its passphrase",
}

// newExitChange reads the fields; old is the exit they change, nil for a new one.
func (a *API) newExitChange(t cell.ExitType, f *ExitFields, old *cell.Exit) (*exitChange, error) {
	c := &exitChange{a: a, f: f, t: t, secrets: map[cell.SecretRef]cell.Secret{}}
	c.ofType()
	c.addresses()
	if f.Config != nil {
		c.paste(old)
	} else {
		c.single(old)
	}
	if len(c.bad) > 0 {
		return nil, &cell.InvalidError{Fields: c.bad}
	}
	return c, nil
}

func (c *exitChange) wrong(pointer, text string) {
	c.bad = append(c.bad, cell.FieldError{Pointer: pointer, Message: text})
}

// ofType refuses fields of another type, and fields beside a text that says the same.
func (c *exitChange) ofType() {
	for _, x := range []struct {
		name string
		set  bool
		t    cell.ExitType
	}{
		{"wireguard", c.f.WireGuard != nil, cell.ExitWireGuard},
		{"tor", c.f.Tor != nil, cell.ExitTor},
		{"ssh", c.f.SSH != nil, cell.ExitSSHuttle},
		{"proxy", c.f.Proxy != nil, cell.ExitProxy},
	} {
		switch {
		case x.set && x.t != c.t:
			c.wrong("/"+x.name, "belongs to exits of type "+string(x.t)+", not "+string(c.t))
		case x.set && c.f.Config != nil:
			c.wrong("/"+x.name, "give either config or single fields")
		}
	}
}

func (c *exitChange) addresses() {
	for _, x := range []struct {
		name string
		text *string
		to   **netip.Addr
	}{{"/address4", c.f.Address4, &c.address4}, {"/address6", c.f.Address6, &c.address6}} {
		if x.text == nil {
			continue
		}
		var addr netip.Addr
		if *x.text != "" {
			p, err := netip.ParsePrefix(*x.text) // as in a wg-quick file
			if addr = p.Addr(); err != nil {
				if addr, err = netip.ParseAddr(*x.text); err != nil {
					c.wrong(x.name, "must be an IP address")
					continue
				}
			}
		}
		*x.to = &addr
	}
	c.probes = parseEach(c, "/probes", c.f.Probes, netip.ParseAddrPort, "must be an address and a port, such as 9.9.9.9:443")
	if w := c.f.WireGuard; w != nil {
		c.allowed = parseEach(c, "/wireguard/allowed_ips", w.AllowedIPs, netip.ParsePrefix, "must be a prefix; 0.0.0.0/0 and ::/0 are everything")
		c.dns = parseEach(c, "/wireguard/dns", w.DNS, netip.ParseAddr, "must be the address of a resolver behind the exit")
	}
	if x := c.f.SSH; x != nil && x.HostKey != nil {
		key := ""
		if *x.HostKey != "" {
			var err error
			if key, _, err = cell.ParseHostKey(*x.HostKey); err != nil {
				c.wrong("/ssh/host_key", err.Error())
			}
		}
		c.hostKey = &key
	}
}

func parseEach[T any](c *exitChange, pointer string, texts []string, parse func(string) (T, error), cure string) []T {
	if texts == nil {
		return nil
	}
	out := make([]T, 0, len(texts))
	for i, t := range texts {
		x, err := parse(t)
		if err != nil {
			c.wrong(pointer+"/"+strconv.Itoa(i), cure)
		}
		out = append(out, x)
	}
	return out
}

func text(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}

func (c *exitChange) parse(config string) *cell.ExitDraft {
	if c.a.cfg.Exits.Parse == nil {
		return &cell.ExitDraft{Refused: []cell.ExitRemark{{Text: "this cell can't read configurations of exits"}}}
	}
	return c.a.cfg.Exits.Parse(cell.ExitPaste{
		Type: c.t, Config: config, Username: text(c.f.Username), Password: cell.NewSecret(text(c.f.Password)),
		PrivateKey: cell.NewSecret(text(c.f.PrivateKey)), Passphrase: cell.NewSecret(text(c.f.Passphrase)),
	})
}

// paste takes what was understood of a text.
func (c *exitChange) paste(old *cell.Exit) {
	d := c.parse(*c.f.Config)
	for _, r := range d.Refused {
		c.wrong("/config", r.String())
	}
	for _, ask := range d.Asks {
		if !c.known(ask, d, old) {
			c.wrong("/"+ask, askedFor[ask])
		}
	}
	if c.t == cell.ExitWireGuard && c.f.PrivateKey != nil {
		c.wrong("/private_key", "the configuration holds the private key")
	}
	if len(c.bad) > 0 {
		return
	}
	c.draft = d
	c.credentials = c.keep("exit", d.Credentials)
	c.psk, c.dropPSK = c.keep("psk", d.PresharedKey), d.PresharedKey.Empty()
	c.profile = c.keep("profile", d.Profile)
	if d.SSH != nil {
		c.auth = d.SSH.Auth
	}
}

// known reports whether what a draft asks for is there already.
func (c *exitChange) known(ask string, d *cell.ExitDraft, old *cell.Exit) bool {
	switch {
	case old == nil || ask == "passphrase":
		return false
	case ask != "username":
		return old.Credentials != "" && (d.Proxy == nil || old.Proxy != nil && old.Proxy.Username == d.Proxy.Username)
	case old.OpenVPN != nil:
		return old.OpenVPN.Username != ""
	case old.SSH != nil:
		return old.SSH.User != ""
	}
	return false
}

// keep puts a secret under a new reference; "" when there is none.
func (c *exitChange) keep(kind string, s cell.Secret) cell.SecretRef {
	if s.Empty() {
		return ""
	}
	ref := c.a.cfg.NewRef(kind)
	c.secrets[ref] = s
	return ref
}

// single takes secrets that were given without a text.
func (c *exitChange) single(old *cell.Exit) {
	f := c.f
	if w := f.WireGuard; w != nil && w.PresharedKey != nil {
		if c.dropPSK = *w.PresharedKey == ""; !c.dropPSK && !cell.Key(*w.PresharedKey).Valid() {
			c.wrong("/wireguard/preshared_key", "must be 32 bytes in base64")
		}
		c.psk = c.keep("psk", cell.NewSecret(*w.PresharedKey))
	}
	switch c.t {
	case cell.ExitWireGuard:
		c.wireGuardKey(old)
	case cell.ExitSSHuttle:
		c.sshKey(old)
	case cell.ExitOpenVPN:
		if old == nil {
			c.wrong("/config", "paste or upload the .ovpn file")
		}
		c.credentials = c.keep("exit", cell.NewSecret(text(f.Password)))
	default:
		c.credentials = c.keep("exit", cell.NewSecret(text(f.Password)))
	}
	if f.PrivateKey != nil && c.t != cell.ExitWireGuard && c.t != cell.ExitSSHuttle {
		c.wrong("/private_key", "exits of this type have no private key of their own")
	}
}

func (c *exitChange) wireGuardKey(old *cell.Exit) {
	key := text(c.f.PrivateKey)
	if key == "" {
		if old == nil {
			c.wrong("/private_key", "our own key, which the server knows, is needed; or paste the whole file as config")
		}
		return
	}
	raw, err := base64.StdEncoding.DecodeString(key)
	k, bad := ecdh.X25519().NewPrivateKey(raw)
	if err != nil || bad != nil || !cell.Key(key).Valid() {
		c.wrong("/private_key", "must be 32 bytes in base64")
		return
	}
	c.public = cell.Key(base64.StdEncoding.EncodeToString(k.PublicKey().Bytes()))
	c.credentials = c.keep("exit", cell.NewSecret(key))
}

func (c *exitChange) sshKey(old *cell.Exit) {
	if text(c.f.PrivateKey) == "" && text(c.f.Password) == "" {
		if old == nil {
			c.wrong("/private_key", askedFor["private_key"])
		}
		return
	}
	d := c.parse("user@server") // the fields have the true ones; here only the key counts
	for _, r := range d.Refused {
		c.wrong("/private_key", r.Text)
	}
	for _, ask := range d.Asks {
		c.wrong("/"+ask, askedFor[ask])
	}
	if d.SSH != nil {
		c.auth = d.SSH.Auth
	}
	c.credentials = c.keep("exit", d.Credentials)
}

// apply writes the change over e. What a state shares is replaced, never written through.
func (c *exitChange) apply(e *cell.Exit) {
	f := c.f
	set(&e.Name, f.Name)
	set(&e.Enabled, f.Enabled)
	set(&e.Socks, f.Socks)
	if c.probes != nil {
		e.Probes = slices.Clone(c.probes)
	}
	if c.draft != nil {
		c.applyDraft(e)
	}
	set(&e.Address4, c.address4)
	set(&e.Address6, c.address6)
	switch c.t {
	case cell.ExitWireGuard:
		c.applyWireGuard(e)
	case cell.ExitOpenVPN:
		x := orNew(e.OpenVPN)
		set(&x.Username, f.Username)
		if c.profile != "" {
			x.Profile = c.profile
		}
		e.OpenVPN = x
	case cell.ExitTor:
		x := orNew(e.Tor)
		if f.Tor != nil {
			if f.Tor.Countries != nil {
				x.Countries = slices.Clone(f.Tor.Countries)
			}
			if f.Tor.Bridges != nil {
				x.Bridges = slices.Clone(f.Tor.Bridges)
			}
		}
		e.Tor = x
	case cell.ExitSSHuttle:
		c.applySSH(e)
	case cell.ExitProxy:
		c.applyProxy(e)
	}
	if c.credentials != "" {
		e.Credentials = c.credentials
	}
}

// applyDraft puts what a text said in the place of what was. What it does not
// say and the exit knows, it keeps: a password, and the host key of the same server.
func (c *exitChange) applyDraft(e *cell.Exit) {
	d := c.draft
	switch {
	case d.WireGuard != nil:
		w := *d.WireGuard
		if e.WireGuard != nil {
			w.PresharedKey = e.WireGuard.PresharedKey
		}
		e.WireGuard, e.Address4, e.Address6 = &w, d.Address4, d.Address6
	case d.OpenVPN != nil:
		x := *d.OpenVPN
		if e.OpenVPN != nil {
			x.Profile, x.Username = e.OpenVPN.Profile, cmp.Or(x.Username, e.OpenVPN.Username)
		}
		e.OpenVPN = &x
	case d.Tor != nil:
		x := *d.Tor
		e.Tor = &x
	case d.SSH != nil:
		x := *d.SSH
		if old := e.SSH; old != nil {
			x.User = cmp.Or(x.User, old.User)
			if x.Auth = c.auth; c.credentials == "" {
				x.Auth = old.Auth
			}
			if x.HostKey == "" && x.Host == old.Host && x.Port == old.Port {
				x.HostKey = old.HostKey
			}
		}
		e.SSH = &x
	case d.Proxy != nil:
		x := *d.Proxy
		if x.Username == "" {
			e.Credentials = ""
		}
		e.Proxy = &x
	}
}

func (c *exitChange) applyWireGuard(e *cell.Exit) {
	w := orNew(e.WireGuard)
	if f := c.f.WireGuard; f != nil {
		set(&w.PeerKey, f.PeerKey)
		set(&w.Endpoint, f.Endpoint)
		set(&w.Keepalive, f.Keepalive)
		set(&w.MTU, f.MTU)
		if c.allowed != nil {
			w.AllowedIPs = slices.Clone(c.allowed)
		}
		if c.dns != nil {
			w.DNS = slices.Clone(c.dns)
		}
	}
	if c.public != "" {
		w.PublicKey = c.public
	}
	switch {
	case c.psk != "":
		w.PresharedKey = c.psk
	case c.dropPSK:
		w.PresharedKey = ""
	}
	e.WireGuard = w
}

func (c *exitChange) applySSH(e *cell.Exit) {
	x := orNew(e.SSH)
	if x.Port == 0 {
		x.Port = 22
	}
	if f := c.f.SSH; f != nil {
		host, port := x.Host, x.Port
		set(&x.Host, f.Host)
		set(&x.Port, f.Port)
		set(&x.User, f.User)
		if x.Host != host || x.Port != port {
			x.HostKey = "" // another server: its key is another, too
		}
	}
	set(&x.User, c.f.Username)
	set(&x.HostKey, c.hostKey)
	if c.credentials != "" {
		x.Auth = c.auth
	}
	e.SSH = x
}

func (c *exitChange) applyProxy(e *cell.Exit) {
	x := orNew(e.Proxy)
	if f := c.f.Proxy; f != nil {
		set(&x.Protocol, f.Protocol)
		set(&x.Host, f.Host)
		set(&x.Port, f.Port)
	}
	set(&x.Username, c.f.Username)
	if x.Username == "" {
		e.Credentials = ""
	}
	e.Proxy = x
}

// orNew returns a copy of what a state shares, or a new one.
func orNew[T any](p *T) *T {
	var x T
	if p != nil {
		x = *p
	}
	return &x
}

// slug makes an id of a name: a hostname label.
func slug(name string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(name) {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
		if b.Len() >= 40 {
			break
		}
	}
	return strings.Trim(b.String(), "-")
}

// freeID is an id that no exit or chain has, made of a name.
func freeID(s *cell.State, name, otherwise string) string {
	base := slug(name)
	if base == "" {
		base = otherwise
	}
	id := base
	for n := 2; taken(s, id); n++ {
		id = base + "-" + strconv.Itoa(n)
	}
	return id
}

func taken(s *cell.State, id string) bool {
	return id == cell.ExitDirect || id == cell.ExitBlock || s.Exit(id) != nil || s.Chain(id) != nil
}

func takenProblem(id string) *Problem {
	return problem(http.StatusConflict, "conflict", "%q is taken by another exit or chain, or a word of its own", id)
}
