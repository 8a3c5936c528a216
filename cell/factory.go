package cell

import (
	"encoding/binary"
	"net/netip"
)

// Factory returns the state of a cell nobody has claimed yet. The seed makes
// the tunnel's subnets differ from cell to cell, so that two rarely collide;
// it must be random. The key pair is the tunnel's.
func Factory(seed [16]byte, private SecretRef, public Key) *State {
	// 10.0.0.0/8 less the ranges that home routers and Docker's docs favour.
	second := 16 + seed[0]%224 // 10.16 to 10.239
	r4 := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, second, 0, 0}), 16)
	// RFC 4193 §3.1: fd00::/8, a 40-bit random global id, subnet 0.
	var a6 [16]byte
	a6[0] = 0xfd
	copy(a6[1:6], seed[1:6])
	binary.BigEndian.PutUint16(a6[6:8], 0)
	s := &State{
		Schema: Schema,
		Network: Network{
			Tunnel: Tunnel{
				Reserved4:  r4,
				Prefix4:    netip.PrefixFrom(r4.Addr(), 24),
				Prefix6:    netip.PrefixFrom(netip.AddrFrom16(a6), 64),
				ListenPort: 51820,
				PrivateKey: private,
				PublicKey:  public,
				MTU:        1420,
			},
			ServicesPrefix: netip.MustParsePrefix("172.20.0.0/16"),
		},
		Clock: Clock{Discipline: DisciplineAuto},
	}
	s.Normalize()
	return s
}
