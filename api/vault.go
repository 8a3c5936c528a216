package api

import (
	"context"

	"github.com/personal-internet-cell/pic/auth"
)

func (a *API) vaultRoutes() {
	register(a, Route{Access: auth.AccessUser, Operation: op("GET", "/api/vault/ca", "ca", "vault", "The authority's root certificate, for devices to trust")}, a.ca)
	register(a, Route{Access: auth.AccessAdmin, Operation: op("GET", "/api/vault/certificates", "list-certificates", "vault", "Certificates the cell serves")},
		func(context.Context, *struct{}) (*Out[List[Certificate]], error) {
			return ok(list(a.cfg.Certificates()))
		})
}

type caIn struct {
	Format string `query:"format" enum:"pem,der,mobileconfig" default:"pem"`
	ID     string `query:"id" maxLength:"63" doc:"an authority's id; default: the one that signs"`
}

func (a *API) ca(_ context.Context, in *caIn) (*textOut, error) {
	s, _ := a.cfg.Engine.Running()
	authority := s.TLS.SigningFor(s.Identity.Domains())
	if in.ID != "" {
		authority = nil
		for i := range s.TLS.Authorities {
			if s.TLS.Authorities[i].ID == in.ID && !s.TLS.Authorities[i].Retired {
				authority = &s.TLS.Authorities[i]
			}
		}
	}
	if authority == nil {
		return nil, notFound("authority", in.ID)
	}
	f, err := a.cfg.Trust(authority, s.Identity.Name, in.Format)
	if err != nil {
		return nil, err
	}
	return &textOut{ContentType: f.ContentType, ContentDisposition: `attachment; filename="` + f.Name + `"`, Body: f.Data}, nil
}
