package firewall

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
)

// Field is something a rule reads from a packet.
type Field uint8

// The fields. The generic ones stand for either family in the packet table
// and are resolved when a row becomes rules.
const (
	InIf Field = iota + 1
	OutIf
	Mark
	SAddr // generic
	DAddr // generic
	Echo  // generic: ICMP echo request
	SAddr4
	DAddr4
	SAddr6
	DAddr6
	L4Proto
	SPort
	DPort
	CTState
	CTStatus
	ICMPType
	ICMP6Type
	DAddrType // fib daddr type
	Transparent
	HopLimit
	TCPFlags
)

// kind is the nft data type of a field.
type kind uint8

const (
	kindIf kind = iota + 1
	kindMark
	kindAddr4
	kindAddr6
	kindProto
	kindPort
	kindICMP
	kindICMP6
	kindState
	kindStatus
	kindAddrType
	kindBool
	kindByte
	kindTCPFlags
)

// fieldInfo is the one place that says how a field is written, typed and which
// family its packet must have.
type fieldInfo struct {
	text   string // nft expression
	kind   kind
	family uint8 // 4 or 6: the packet must be of that family
	proto  uint8 // non-zero: the packet must be of that protocol
}

var fields = [...]fieldInfo{
	InIf:        {"iifname", kindIf, 0, 0},
	OutIf:       {"oifname", kindIf, 0, 0},
	Mark:        {"meta mark", kindMark, 0, 0},
	SAddr4:      {"ip saddr", kindAddr4, 4, 0},
	DAddr4:      {"ip daddr", kindAddr4, 4, 0},
	SAddr6:      {"ip6 saddr", kindAddr6, 6, 0},
	DAddr6:      {"ip6 daddr", kindAddr6, 6, 0},
	L4Proto:     {"meta l4proto", kindProto, 0, 0},
	SPort:       {"th sport", kindPort, 0, 0},
	DPort:       {"th dport", kindPort, 0, 0},
	CTState:     {"ct state", kindState, 0, 0},
	CTStatus:    {"ct status", kindStatus, 0, 0},
	ICMPType:    {"icmp type", kindICMP, 4, protoICMP},
	ICMP6Type:   {"icmpv6 type", kindICMP6, 6, protoICMP6},
	DAddrType:   {"fib daddr type", kindAddrType, 0, 0},
	Transparent: {"socket transparent", kindBool, 0, 0},
	HopLimit:    {"ip6 hoplimit", kindByte, 6, 0},
	TCPFlags:    {"tcp flags", kindTCPFlags, 0, protoTCP},
}

// Protocol numbers (IANA).
const (
	protoICMP  uint8 = 1
	protoTCP   uint8 = 6
	protoUDP   uint8 = 17
	protoICMP6 uint8 = 58
)

// Bits of ct state and ct status (linux/netfilter/nf_conntrack_common.h).
const (
	ctInvalid     = 1
	ctEstablished = 2
	ctRelated     = 4
	ctNew         = 8
	ctDNAT        = 1 << 5
)

// Address types (linux/rtnetlink.h).
const addrLocal = 2

// kindInfo is the nft name and size in bytes of a data type.
var kinds = [...]struct {
	name string
	size int
}{
	kindIf:       {"ifname", 16},
	kindMark:     {"mark", 4},
	kindAddr4:    {"ipv4_addr", 4},
	kindAddr6:    {"ipv6_addr", 16},
	kindProto:    {"inet_proto", 1},
	kindPort:     {"inet_service", 2},
	kindICMP:     {"icmp_type", 1},
	kindICMP6:    {"icmpv6_type", 1},
	kindState:    {"ct_state", 4},
	kindStatus:   {"ct_status", 4},
	kindAddrType: {"fib_addrtype", 4},
	kindBool:     {"boolean", 1},
	kindByte:     {"integer", 1},
	kindTCPFlags: {"tcp_flag", 1},
}

func (f Field) generic() bool { return f == SAddr || f == DAddr || f == Echo }

// of resolves a generic field for a family.
func (f Field) of(family uint8) Field {
	six := family == 6
	switch {
	case f == SAddr && six:
		return SAddr6
	case f == SAddr:
		return SAddr4
	case f == DAddr && six:
		return DAddr6
	case f == DAddr:
		return DAddr4
	case f == Echo && six:
		return ICMP6Type
	case f == Echo:
		return ICMPType
	}
	return f
}

// bitmask reports whether a comparison means "any of these bits".
func (f Field) bitmask() bool { return f == CTState || f == CTStatus }

func (k kind) text(v Value) string {
	switch k {
	case kindIf:
		return strconv.Quote(v.Name)
	case kindMark:
		return fmt.Sprintf("0x%02x", v.Num)
	case kindAddr4, kindAddr6:
		return v.Addr.String()
	case kindProto:
		switch uint8(v.Num) {
		case protoTCP:
			return "tcp"
		case protoUDP:
			return "udp"
		}
	case kindICMP:
		if v.Num == 8 {
			return "echo-request"
		}
	case kindICMP6:
		switch v.Num {
		case 128:
			return "echo-request"
		case 130:
			return "mld-listener-query"
		case 131:
			return "mld-listener-report"
		case 132:
			return "mld-listener-done"
		case 143:
			return "mld2-listener-report"
		case 134:
			return "nd-router-advert"
		case 135:
			return "nd-neighbor-solicit"
		case 136:
			return "nd-neighbor-advert"
		}
	case kindState:
		switch v.Num {
		case ctInvalid:
			return "invalid"
		case ctEstablished | ctRelated:
			return "established,related"
		}
	case kindStatus:
		if v.Num == ctDNAT {
			return "dnat"
		}
	case kindAddrType:
		if v.Num == addrLocal {
			return "local"
		}
	}
	return strconv.FormatUint(uint64(v.Num), 10)
}

// bytes encodes v as the kernel holds it: addresses and ports in network
// order, marks and connection tracking bits in the machine's.
func (k kind) bytes(v Value) []byte {
	switch k {
	case kindIf:
		b := make([]byte, 16)
		copy(b, v.Name)
		return b
	case kindAddr4, kindAddr6:
		return v.Addr.AsSlice()
	case kindPort:
		return binary.BigEndian.AppendUint16(nil, uint16(v.Num))
	case kindProto, kindICMP, kindICMP6, kindBool, kindByte, kindTCPFlags:
		return []byte{byte(v.Num)}
	}
	return binary.NativeEndian.AppendUint32(nil, v.Num)
}

// encode concatenates the fields' encodings, each padded to a 32-bit register.
func encode(fs []Field, vs []Value) []byte {
	var out []byte
	for i, f := range fs {
		out = append(out, fields[f].kind.bytes(vs[i])...)
		for len(fs) > 1 && len(out)%4 != 0 {
			out = append(out, 0)
		}
	}
	return out
}

func addr(a netip.Addr) Value { return Value{Addr: a} }
func name(s string) Value     { return Value{Name: s} }
func num[T ~uint8 | ~uint16 | ~uint32 | ~int](n T) Value {
	return Value{Num: uint32(n)}
}
