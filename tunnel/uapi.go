package tunnel

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

// The cross-platform configuration protocol of WireGuard: lines of key=value,
// keys in hexadecimal (wireguard.com/xplatform, "Configuration Protocol").

// maxObservedPeers bounds what is read back from a device.
const maxObservedPeers = 1 << 16

// parseUAPI reads the answer to a "get" operation. Keys it does not know are
// skipped, as the protocol asks.
func parseUAPI(text string) (Observed, error) {
	var (
		o       Observed
		peer    *ObservedPeer
		seconds int64
	)
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			break
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return Observed{}, errors.New("reading the device: a line without =") // a line may hold a key: never print it
		}
		var err error
		switch {
		case key == "public_key":
			if len(o.Peers) == maxObservedPeers {
				return Observed{}, fmt.Errorf("reading the device: more than %d peers", maxObservedPeers)
			}
			var k [keySize]byte
			k, err = hexKey(value)
			o.Peers = append(o.Peers, ObservedPeer{PublicKey: cell.Key(base64.StdEncoding.EncodeToString(k[:]))})
			peer, seconds = &o.Peers[len(o.Peers)-1], 0
		case peer == nil:
			err = o.line(key, value)
		case key == "last_handshake_time_sec":
			seconds, err = strconv.ParseInt(value, 10, 64)
			peer.handshake(seconds, 0)
		case key == "last_handshake_time_nsec":
			var nano int64
			nano, err = strconv.ParseInt(value, 10, 64)
			peer.handshake(seconds, nano)
		default:
			err = peer.line(key, value)
		}
		if err != nil {
			return Observed{}, fmt.Errorf("reading the device: %s: %w", key, err)
		}
	}
	return o, nil
}

func (o *Observed) line(key, value string) error {
	switch key {
	case "private_key":
		k, err := hexKey(value)
		if err == nil && k != [keySize]byte{} {
			o.PublicKey, err = publicKey(k)
		}
		return err
	case "listen_port":
		n, err := strconv.ParseUint(value, 10, 16)
		o.ListenPort = uint16(n)
		return numError(err)
	case "fwmark":
		n, err := strconv.ParseUint(value, 0, 32)
		o.FirewallMark = uint32(n)
		return numError(err)
	}
	return nil
}

func (p *ObservedPeer) line(key, value string) (err error) {
	switch key {
	case "preshared_key":
		var k [keySize]byte
		k, err = hexKey(value)
		p.PresharedKey = encodeKey(k)
	case "endpoint":
		p.Endpoint, err = netip.ParseAddrPort(value)
	case "allowed_ip":
		var a netip.Prefix
		a, err = netip.ParsePrefix(value)
		p.AllowedIPs = append(p.AllowedIPs, a)
	case "rx_bytes":
		p.ReceivedBytes, err = strconv.ParseUint(value, 10, 64)
	case "tx_bytes":
		p.SentBytes, err = strconv.ParseUint(value, 10, 64)
	case "persistent_keepalive_interval":
		var n uint64
		n, err = strconv.ParseUint(value, 10, 16)
		p.Keepalive = time.Duration(n) * time.Second
	}
	return err
}

func (p *ObservedPeer) handshake(sec, nano int64) {
	p.LastHandshake = time.Time{}
	if sec > 0 || nano > 0 {
		p.LastHandshake = time.Unix(sec, nano)
	}
}

// hexKey reads a key; its error does not quote the key.
func hexKey(s string) (k [keySize]byte, err error) {
	if len(s) != hex.EncodedLen(keySize) {
		return k, errors.New("not 32 bytes in hexadecimal")
	}
	if _, err := hex.Decode(k[:], []byte(s)); err != nil {
		return k, errors.New("not 32 bytes in hexadecimal")
	}
	return k, nil
}

// numError drops the quoted input of strconv.
func numError(err error) error {
	var e *strconv.NumError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// formatUAPI renders p, without its listen port, as a "set" operation.
func formatUAPI(p *Patch) (string, error) {
	var b strings.Builder
	if !p.PrivateKey.Empty() {
		k, err := decodeKey(p.PrivateKey.Reveal())
		if err != nil {
			return "", fmt.Errorf("writing the private key: %w", err)
		}
		fmt.Fprintf(&b, "private_key=%x\n", k)
	}
	if p.FirewallMark != nil {
		fmt.Fprintf(&b, "fwmark=%d\n", *p.FirewallMark)
	}
	for i := range p.Peers {
		if err := p.Peers[i].formatUAPI(&b); err != nil {
			return "", fmt.Errorf("writing peer %s: %w", p.Peers[i].PublicKey, err)
		}
	}
	return b.String(), nil
}

func (p *PeerPatch) formatUAPI(b *strings.Builder) error {
	k, err := decodeKey(string(p.PublicKey))
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "public_key=%x\n", k)
	if p.Remove {
		b.WriteString("remove=true\n")
		return nil
	}
	if p.PresharedKey != nil {
		var psk [keySize]byte
		if !p.PresharedKey.Empty() {
			if psk, err = decodeKey(p.PresharedKey.Reveal()); err != nil {
				return err
			}
		}
		fmt.Fprintf(b, "preshared_key=%x\n", psk)
	}
	if p.Endpoint.IsValid() {
		fmt.Fprintf(b, "endpoint=%s\n", p.Endpoint)
	}
	if p.Keepalive != nil {
		fmt.Fprintf(b, "persistent_keepalive_interval=%d\n", int(p.Keepalive.Seconds()))
	}
	if p.AllowedIPs != nil {
		b.WriteString("replace_allowed_ips=true\n")
		for _, a := range p.AllowedIPs {
			fmt.Fprintf(b, "allowed_ip=%s\n", a)
		}
	}
	return nil
}
