package profile

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"time"
)

// soon is how long before its end a certificate is worth a warning.
const soon = 14 * 24 * time.Hour

// inline normalises a block: PEM without the prose around it, static keys as
// their lines of digits.
func (o *ovpn) inline(n int, name string, body []line) {
	var text strings.Builder
	for _, l := range body {
		text.WriteString(l.text + "\n")
	}
	switch name {
	case "tls-auth", "tls-crypt":
		o.staticKey(n, name, body)
		return
	case "tls-crypt-v2":
		o.pem(n, name, text.String(), func(t string) bool { return t == "OpenVPN tls-crypt-v2 client key" })
	case "key":
		o.pem(n, name, text.String(), func(t string) bool { return strings.HasSuffix(t, "PRIVATE KEY") })
	default:
		o.pem(n, name, text.String(), func(t string) bool { return t == "CERTIFICATE" })
	}
}

func (o *ovpn) pem(n int, name, text string, want func(string) bool) {
	var out bytes.Buffer
	for rest := []byte(text); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if !want(b.Type) {
			continue
		}
		if b.Type == "ENCRYPTED PRIVATE KEY" || b.Headers["DEK-Info"] != "" {
			o.refuse(n, "the <key> is locked by a passphrase, and nobody is there to enter it: open it with `openssl pkey -in client.key -out open.key` and paste that")
			return
		}
		_ = pem.Encode(&out, &pem.Block{Type: b.Type, Bytes: b.Bytes})
	}
	if out.Len() == 0 {
		o.refuse(n, "<%s> holds nothing of its kind: it begins with a line -----BEGIN …----- and has an END line; copy the whole file", name)
		return
	}
	o.blocks[name] = out.String()
}

// staticKey checks the 2048 bits of `openvpn --genkey`.
func (o *ovpn) staticKey(n int, name string, body []line) {
	const begin, end = "-----BEGIN OpenVPN Static key V1-----", "-----END OpenVPN Static key V1-----"
	var digits strings.Builder
	state := 0
	for _, l := range body {
		switch {
		case l.text == begin && state == 0:
			state = 1
		case l.text == end && state == 1:
			state = 2
		case state == 1:
			digits.WriteString(strings.ToLower(l.text))
		}
	}
	d := digits.String()
	if state != 2 || len(d) != 512 || strings.Trim(d, "0123456789abcdef") != "" {
		o.refuse(n, "<%s> must hold an OpenVPN static key of 16 lines: copy it whole, with its BEGIN and END lines", name)
		return
	}
	var b strings.Builder
	b.WriteString(begin + "\n")
	for i := 0; i < len(d); i += 32 {
		b.WriteString(d[i:i+32] + "\n")
	}
	b.WriteString(end + "\n")
	o.blocks[name] = b.String()
}

func certificatesOf(text string) (out []*x509.Certificate, ok bool) {
	for rest := []byte(text); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return out, len(out) > 0
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, false
		}
		out = append(out, c)
	}
}

// certificates warns of those that have ended, and refuses a key that is not
// the certificate's.
func (o *ovpn) certificates() {
	for _, c := range []struct{ block, what string }{{"ca", "the authority's certificate"}, {"cert", "the client certificate"}} {
		text, have := o.blocks[c.block]
		if !have {
			continue
		}
		certs, ok := certificatesOf(text)
		if !ok {
			o.warn(o.at["<"+c.block+">"], "%s can't be read here; openvpn may still do", c.what)
			continue
		}
		for _, x := range certs {
			o.dates(o.at["<"+c.block+">"], c.what, x)
		}
	}
	certs, ok := certificatesOf(o.blocks["cert"])
	key, isKey := privateKey(o.blocks["key"])
	if !ok || !isKey {
		return
	}
	public, can := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	if can && !public.Equal(certs[0].PublicKey) {
		o.refuse(o.at["<key>"], "the <key> does not belong to the <cert>: take both from one profile")
	}
}

func (o *ovpn) dates(n int, what string, x *x509.Certificate) {
	now, day := o.o.Now, x.NotAfter.UTC().Format(time.DateOnly)
	switch {
	case now.After(x.NotAfter):
		o.warn(n, "%s expired on %s: get a new profile", what, day)
	case now.Before(x.NotBefore):
		o.warn(n, "%s is valid only from %s: is the cell's clock right?", what, x.NotBefore.UTC().Format(time.DateOnly))
	case now.Add(soon).After(x.NotAfter):
		o.warn(n, "%s expires on %s: get a new profile soon", what, day)
	}
}

func privateKey(text string) (crypto.Signer, bool) {
	for rest := []byte(text); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return nil, false
		}
		if k, err := x509.ParsePKCS8PrivateKey(b.Bytes); err == nil {
			s, ok := k.(crypto.Signer)
			return s, ok
		}
		if k, err := x509.ParsePKCS1PrivateKey(b.Bytes); err == nil {
			return k, true
		}
		if k, err := x509.ParseECPrivateKey(b.Bytes); err == nil {
			return k, true
		}
	}
}
