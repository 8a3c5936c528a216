package main_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// plantExits makes an exit of each type that has secrets, and tries others that
// are refused: what is typed wrong is as secret as what is right.
func (h *host) plantExits(t *testing.T, c canaries) {
	t.Helper()
	post := func(status int, path string, body map[string]any) {
		b, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		r := h.want(status, "POST", path, string(b))
		if names := c.leaks(string(r.body)); len(names) > 0 {
			t.Errorf("the answer to POST %s (%d) shows %v", path, status, names)
		}
	}
	c.add("WireGuard key of an exit", exitKey)
	c.add("preshared key of an exit", exitPSK)
	c.add("password of a proxy", "canary-proxy-0815")
	c.add("password of an SSH server", "canary-ssh-4711")
	c.add("password of an OpenVPN server", "canary-openvpn-2342")
	c.add("passphrase of a key", "canary passphrase 99")
	profile, key := ovpnProfile(t)
	c.add("key of an OpenVPN profile", key)
	locked, middle := sshKey(t, "canary passphrase 99")
	c.add("locked SSH key", middle)

	const exits = "/api/connectivity/exits"
	// The one that the reads below look at; it is off, so that none of them waits for it.
	post(201, exits, map[string]any{"type": "wireguard_ext", "id": "x", "config": exitFile, "enabled": false})
	post(201, exits, map[string]any{"type": "proxy", "name": "proxy", "config": "http://ann:canary-proxy-0815@192.0.2.9:3128"})
	post(201, exits, map[string]any{"type": "sshuttle", "name": "ssh", "config": "ann@192.0.2.9", "password": "canary-ssh-4711"})
	post(201, exits, map[string]any{"type": "sshuttle", "name": "ssh key", "config": "ann@192.0.2.9", "private_key": locked, "passphrase": "canary passphrase 99"})
	post(201, exits, map[string]any{"type": "openvpn", "name": "openvpn", "config": profile, "username": "ann", "password": "canary-openvpn-2342"})
	for _, path := range []string{exits, exits + "/parse"} {
		status := 422
		if path != exits {
			status = 200
		}
		post(status, path, map[string]any{"type": "wireguard_ext", "config": exitFile + exitKey + "\nPostUp = " + exitPSK})
		post(status, path, map[string]any{"type": "wireguard_ext", "config": exitKey})
		post(status, path, map[string]any{"type": "proxy", "config": "ftp://ann:canary-proxy-0815@192.0.2.9/"})
		post(status, path, map[string]any{"type": "sshuttle", "config": "ann:canary-ssh-4711@192.0.2.9"})
		post(status, path, map[string]any{"type": "sshuttle", "config": "ann@192.0.2.9", "private_key": locked, "passphrase": "not canary passphrase 99"})
		post(status, path, map[string]any{"type": "openvpn", "config": profile + "\nup canary-openvpn-2342\ncanary-openvpn-2342\n", "password": "canary-openvpn-2342"})
	}
	post(422, exits, map[string]any{"type": "tor", "passwort": "canary-proxy-0815"})
	post(200, exits+"?dry_run=1", map[string]any{"type": "wireguard_ext", "config": exitFile})
}

// ovpnProfile is a profile with certificates, and the part of its key that is looked for.
func ovpnProfile(t *testing.T) (profile, middle string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	c := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	p := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	return "client\ndev tun\nremote 192.0.2.7 1194 udp\nremote-cert-tls server\nauth-user-pass\n<ca>\n" + c + "</ca>\n<cert>\n" + c + "</cert>\n<key>\n" + p + "</key>\n",
		strings.Split(p, "\n")[2][:40]
}

// sshKey is a key under a passphrase, and the part of it that is looked for.
func sshKey(t *testing.T, passphrase string) (text, middle string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b, err := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	if err != nil {
		t.Fatal(err)
	}
	text = string(pem.EncodeToMemory(b))
	return text, strings.Split(text, "\n")[4][:40]
}
