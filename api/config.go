package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/personal-internet-cell/pic/auth"
	"github.com/personal-internet-cell/pic/cell"
)

// ConfigDoc is the state with the ids of installed services. Secrets are
// references, so nothing in it is secret.
type ConfigDoc struct {
	cell.State
	InstalledServices []string `json:"installed_services" nullable:"false"`
}

type patchIn struct {
	Write
	Body map[string]any
}

type planIn struct {
	Body map[string]any
}

func (a *API) configRoutes() {
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/config", "get-config", "core", "The whole state; secrets appear as references")},
		func(context.Context, *struct{}) (*Out[ConfigDoc], error) {
			s, _ := a.cfg.Engine.Running()
			out, _ := ok(configDoc(s))
			out.ETag = a.etag("")
			return out, nil
		})
	register(a, Route{Access: auth.AccessAdmin, Reauth: true, Operation: op("PUT", "/api/config", "put-config", "core", "Change the state by a JSON merge patch (RFC 7396)")},
		func(ctx context.Context, in *patchIn) (*Out[ConfigDoc], error) {
			edit, secrets, err := a.patchEdit(in.Body)
			if err != nil {
				return nil, err
			}
			r, err := a.commit(ctx, in.Write, change{message: "change " + patchSubject(in.Body), edit: edit, secrets: secrets})
			if err != nil {
				return nil, err
			}
			return answer(a, r, "", http.StatusOK, configDoc(r.State)), nil
		})
	register(a, Route{Access: auth.AccessAdmin, Operation: op("POST", "/api/plan", "plan", "core", "What a merge patch would change, as text; nothing is changed")},
		func(_ context.Context, in *planIn) (*Out[Preview], error) {
			edit, _, err := a.patchEdit(in.Body)
			if err != nil {
				return nil, err
			}
			p, err := a.cfg.Engine.Preview(0, edit)
			if err != nil {
				return nil, err
			}
			return ok(*previewOf(p, true))
		})
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/export/{format}", "export", "core", "A plan as text: nft, wg, zone or state")}, a.export)
	register(a, Route{Access: auth.AccessUser, Operation: op("GET", "/api/services/active", "active-services", "services", "Services one may open")}, a.activeServices)
}

func configDoc(s *cell.State) ConfigDoc {
	d := ConfigDoc{State: *s, InstalledServices: []string{}}
	for i := range s.Services {
		d.InstalledServices = append(d.InstalledServices, s.Services[i].ID)
	}
	return d
}

// patchSubject names the sections of a patch for the history.
func patchSubject(patch map[string]any) string {
	var keys []string
	for k := range patch {
		if len(k) <= 20 {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return strings.Join(keys[:min(len(keys), 6)], ", ")
}

// mergeEdit makes an edit of a merge patch. Users, authorities and secret
// references have operations of their own: a patch that changed a reference
// could make one secret appear in another's place.
func mergeEdit(patch map[string]any) cell.Edit {
	patch = maps.Clone(patch)
	delete(patch, "installed_services") // GET adds it
	return func(s *cell.State) error {
		doc, err := json.Marshal(s)
		if err != nil {
			return err
		}
		var target map[string]any
		d := json.NewDecoder(bytes.NewReader(doc))
		d.UseNumber()
		if err := d.Decode(&target); err != nil {
			return err
		}
		merged, err := json.Marshal(mergePatch(target, patch))
		if err != nil {
			return err
		}
		next, err := decodeState(merged)
		if err != nil {
			return err
		}
		if err := protectedUnchanged(s, next); err != nil {
			return err
		}
		*s = *next
		return nil
	}
}

// patchEdit is the edit of a patch. A new domain that no authority covers gets
// an authority of its own in the same commit, so that HTTPS goes on; the old
// one stays for devices that trust it, until it is retired.
func (a *API) patchEdit(patch map[string]any) (cell.Edit, map[cell.SecretRef]cell.Secret, error) {
	merge := mergeEdit(patch)
	running, _ := a.cfg.Engine.Running()
	next := running.Clone()
	if err := merge(next); err != nil {
		return nil, nil, err
	}
	domains := next.Identity.Domains()
	if s := next.TLS.SigningFor(domains); !next.Claimed() || (s != nil && s.Covers(domains)) || next.Validate() != nil {
		return merge, nil, nil
	}
	authority, root, issuing, err := a.cfg.NewAuthority(domains, a.cfg.Now().UTC().Truncate(time.Second))
	if err != nil {
		return nil, nil, err
	}
	authority.RootKey, authority.IssuingKey = a.cfg.NewRef("ca-root"), a.cfg.NewRef("ca-issuing")
	edit := func(s *cell.State) error {
		if err := merge(s); err != nil {
			return err
		}
		if authority.Covers(s.Identity.Domains()) {
			s.TLS.Authorities = append(s.TLS.Authorities, authority)
		}
		return nil
	}
	return edit, map[cell.SecretRef]cell.Secret{authority.RootKey: root, authority.IssuingKey: issuing}, nil
}

// mergePatch is the function of RFC 7396 §2.
func mergePatch(target any, patch map[string]any) map[string]any {
	t, is := target.(map[string]any)
	if !is {
		t = map[string]any{}
	}
	for k, v := range patch {
		switch x := v.(type) {
		case nil:
			delete(t, k)
		case map[string]any:
			t[k] = mergePatch(t[k], x)
		default:
			t[k] = v
		}
	}
	return t
}

// decodeState reads a state strictly: an unknown field or a wrong type is an
// error that names it.
func decodeState(doc []byte) (*cell.State, error) {
	d := json.NewDecoder(bytes.NewReader(doc))
	d.DisallowUnknownFields()
	s := &cell.State{}
	if err := d.Decode(s); err != nil {
		var t *json.UnmarshalTypeError
		if errors.As(err, &t) {
			return nil, invalid("/"+strings.ReplaceAll(t.Field, ".", "/"), "/%s must be a %s, not a %s", strings.ReplaceAll(t.Field, ".", "/"), t.Type, t.Value)
		}
		msg := strings.TrimPrefix(err.Error(), "json: ")
		return nil, invalid("", "%s", msg)
	}
	s.Normalize()
	return s, nil
}

func protectedUnchanged(old, next *cell.State) error {
	if !equalJSON(old.Users, next.Users) {
		return invalid("/users", "users are changed by /api/auth/users, not here")
	}
	if !equalJSON(old.TLS.Authorities, next.TLS.Authorities) {
		return invalid("/tls/authorities", "authorities are changed by /api/vault, not here")
	}
	was := secretSlots(old)
	for slot, ref := range secretSlots(next) {
		if ref != "" && was[slot] != ref {
			return invalid("/"+slot, "/%s is a reference the cell manages: leave it as it is or empty", slot)
		}
	}
	if next.Network.Tunnel.PrivateKey != old.Network.Tunnel.PrivateKey || next.Network.Tunnel.PublicKey != old.Network.Tunnel.PublicKey {
		return invalid("/network/tunnel/public_key", "the tunnel's key pair can't be changed here")
	}
	return nil
}

// secretSlots maps each place that holds a reference, by its owner's name, to
// the reference.
func secretSlots(s *cell.State) map[string]cell.SecretRef {
	m := map[string]cell.SecretRef{
		"network/tunnel/private_key": s.Network.Tunnel.PrivateKey,
		"tls/solver_token":           s.TLS.SolverToken,
		"ddns/totp_secret":           s.DDNS.TOTPSecret,
		"ddns/token":                 s.DDNS.Token,
	}
	for i := range s.Peers {
		m["peers/"+s.Peers[i].Name+"/preshared_key"] = s.Peers[i].PresharedKey
	}
	for i := range s.Links {
		m["links/"+s.Links[i].Name+"/preshared_key"] = s.Links[i].PresharedKey
	}
	for i := range s.Exits {
		m["exits/"+s.Exits[i].ID+"/credentials"] = s.Exits[i].Credentials
	}
	return m
}

func equalJSON(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

type exportIn struct {
	Format string `path:"format" enum:"nft,wg,zone,state,proxy,certs,ntp"`
}

type textOut struct {
	ContentType        string `header:"Content-Type"`
	ContentDisposition string `header:"Content-Disposition"`
	CacheControl       string `header:"Cache-Control"`
	Body               []byte
}

func (a *API) export(_ context.Context, in *exportIn) (*textOut, error) {
	s, n := a.cfg.Engine.Running()
	out := &textOut{ContentType: "text/plain; charset=utf-8"}
	if in.Format == "state" {
		b, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			return nil, err
		}
		out.ContentType = "application/json"
		out.Body = append(b, '\n')
		return out, nil
	}
	render := a.cfg.Export[in.Format]
	if render == nil {
		return nil, notFound("export format", in.Format)
	}
	text, err := render(s, a.cfg.Engine.Facts())
	if err != nil {
		return nil, fmt.Errorf("exporting revision %d: %w", n, err)
	}
	out.Body = []byte(text)
	return out, nil
}

// ActiveService is a service as the nav and the portal show it.
type ActiveService struct {
	ID           string      `json:"id"`
	Name         string      `json:"name"`
	Subdomain    string      `json:"subdomain"`
	URL          string      `json:"url"`
	Capabilities []string    `json:"capabilities" nullable:"false"`
	Access       cell.Access `json:"access"`
}

// activeServices lists enabled services: an admin sees all, a peer user those
// that one of their devices is granted.
func (a *API) activeServices(ctx context.Context, _ *struct{}) (*Out[List[ActiveService]], error) {
	s, _ := a.cfg.Engine.Running()
	id := identityOf(ctx)
	var out []ActiveService
	for i := range s.Services {
		v := &s.Services[i]
		if !v.Enabled || (id.Role != cell.RoleAdmin && !grantedTo(s, v, id.User)) {
			continue
		}
		caps := v.Capabilities
		if caps == nil {
			caps = []string{}
		}
		out = append(out, ActiveService{v.ID, v.Name, v.Subdomain, a.url(s.ServiceNames(v)[0]), caps, v.Access})
	}
	return ok(list(out))
}

func grantedTo(s *cell.State, v *cell.Service, user string) bool {
	for i := range s.Peers {
		if s.Peers[i].Owner == user && s.Peers[i].Enabled && s.Peers[i].Granted(v) {
			return true
		}
	}
	return false
}
