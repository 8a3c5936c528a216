package firewall

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Registers: fields that are looked up start at the first 32-bit register, one
// after the other; results go to the 128-bit register 1, which overlaps them
// (a look-up has read its key before it writes).
const (
	reg1    = unix.NFT_REG_1
	reg32   = unix.NFT_REG32_00
	regSize = 4
)

var datatypes = [...]nftables.SetDatatype{
	kindIf: nftables.TypeIFName, kindMark: nftables.TypeMark, kindAddr4: nftables.TypeIPAddr, kindAddr6: nftables.TypeIP6Addr,
	kindProto: nftables.TypeInetProto, kindPort: nftables.TypeInetService, kindICMP: nftables.TypeICMPType,
	kindICMP6: nftables.TypeICMP6Type, kindState: nftables.TypeCTState, kindStatus: nftables.TypeCTStatus,
	kindAddrType: nftables.TypeFIBAddr, kindBool: nftables.TypeBoolean, kindByte: nftables.TypeInteger, kindTCPFlags: nftables.TypeTCPFlag,
}

func dataType(fs []Field) (nftables.SetDatatype, error) {
	if len(fs) == 1 {
		return datatypes[fields[fs[0]].kind], nil
	}
	ts := make([]nftables.SetDatatype, len(fs))
	for i, f := range fs {
		ts[i] = datatypes[fields[f].kind]
	}
	return nftables.ConcatSetType(ts...)
}

// kernelSet is the set as google/nftables wants it, without elements.
func (s *Set) kernelSet(t *nftables.Table) (*nftables.Set, error) {
	key, err := dataType(s.Key)
	if err != nil {
		return nil, fmt.Errorf("typing set %s: %w", s.Name, err)
	}
	out := &nftables.Set{
		Table: t, Name: s.Name, KeyType: key, Interval: s.Interval, Counter: s.Counted,
		Concatenation: len(s.Key) > 1, IsMap: s.Verdicts || len(s.Data) > 0,
	}
	if k := fields[s.Key[0]].kind; len(s.Key) == 1 && (k == kindMark || k == kindIf) {
		out.KeyByteOrder = binaryutil.NativeEndian
	}
	switch {
	case s.Verdicts:
		out.DataType = nftables.TypeVerdict
	case len(s.Data) > 0:
		if out.DataType, err = dataType(s.Data); err != nil {
			return nil, fmt.Errorf("typing map %s: %w", s.Name, err)
		}
	}
	return out, nil
}

// kernelElements are an element as the kernel holds it: one, or two for a
// range of a plain interval set.
func (s *Set) kernelElements(e *Element) []nftables.SetElement {
	out := nftables.SetElement{Key: encode(s.Key, e.Key)}
	switch {
	case s.Verdicts:
		out.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: e.Chain}
	case len(s.Data) > 0:
		out.Val = encode(s.Data, e.Data)
	}
	if !s.Interval {
		return []nftables.SetElement{out}
	}
	last := e.Last
	if !last.IsValid() {
		last = e.Key[len(e.Key)-1].Addr
	}
	if len(s.Key) > 1 { // concatenations hold both ends, inclusive, in one element
		key := append([]Value(nil), e.Key...)
		key[len(key)-1] = Value{Addr: last}
		out.KeyEnd = encode(s.Key, key)
		return []nftables.SetElement{out}
	}
	return []nftables.SetElement{out, {Key: last.Next().AsSlice(), IntervalEnd: true}}
}

// exprs turns a rule into the kernel's expressions. sets are those of the same
// batch: a look-up refers to them by id.
func (r *Rule) exprs(sets map[string]*nftables.Set) []expr.Any {
	var out []expr.Any
	out = append(out, r.dependencies()...)
	for _, m := range r.Match {
		out = append(out, m.exprs(sets)...)
	}
	if r.Count {
		out = append(out, &expr.Counter{})
	}
	return append(out, r.Do.exprs(sets)...)
}

// dependencies restrict a rule to packets that have the fields it reads: in an
// inet table an offset into an IPv4 header means something else in IPv6.
func (r *Rule) dependencies() []expr.Any {
	var family, proto uint8
	see := func(fs []Field) {
		for _, f := range fs {
			family, proto = max(family, fields[f].family), max(proto, fields[f].proto)
		}
	}
	for _, m := range r.Match {
		see(m.Fields)
	}
	see(r.Do.Fields)
	family = max(family, r.Do.Family)
	var out []expr.Any
	if family != 0 {
		out = append(out, &expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{nfproto(family)}})
	}
	if r.Do.Kind == RejectTCP {
		proto = protoTCP
	}
	if proto != 0 {
		out = append(out, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{proto}})
	}
	return out
}

func nfproto(family uint8) byte {
	if family == 6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// load reads a field into a register.
func (f Field) load(reg uint32) expr.Any {
	payload := func(base expr.PayloadBase, offset, n uint32) expr.Any {
		return &expr.Payload{DestRegister: reg, Base: base, Offset: offset, Len: n}
	}
	switch f {
	case InIf:
		return &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg}
	case OutIf:
		return &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg}
	case Mark:
		return &expr.Meta{Key: expr.MetaKeyMARK, Register: reg}
	case L4Proto:
		return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}
	case SAddr4:
		return payload(expr.PayloadBaseNetworkHeader, 12, 4)
	case DAddr4:
		return payload(expr.PayloadBaseNetworkHeader, 16, 4)
	case SAddr6:
		return payload(expr.PayloadBaseNetworkHeader, 8, 16)
	case DAddr6:
		return payload(expr.PayloadBaseNetworkHeader, 24, 16)
	case HopLimit:
		return payload(expr.PayloadBaseNetworkHeader, 7, 1)
	case SPort:
		return payload(expr.PayloadBaseTransportHeader, 0, 2)
	case DPort:
		return payload(expr.PayloadBaseTransportHeader, 2, 2)
	case ICMPType, ICMP6Type:
		return payload(expr.PayloadBaseTransportHeader, 0, 1)
	case TCPFlags:
		return payload(expr.PayloadBaseTransportHeader, 13, 1)
	case CTState:
		return &expr.Ct{Key: expr.CtKeySTATE, Register: reg}
	case CTStatus:
		return &expr.Ct{Key: expr.CtKeySTATUS, Register: reg}
	case DAddrType:
		return &expr.Fib{Register: reg, ResultADDRTYPE: true, FlagDADDR: true}
	}
	return &expr.Socket{Key: expr.SocketKeyTransparent, Register: reg}
}

// loadKey reads fields into consecutive registers.
func loadKey(fs []Field) []expr.Any {
	var out []expr.Any
	reg := uint32(reg32)
	for _, f := range fs {
		out = append(out, f.load(reg))
		reg += uint32(kinds[fields[f].kind].size+regSize-1) / regSize
	}
	return out
}

func (m *Match) exprs(sets map[string]*nftables.Set) []expr.Any {
	if m.Set != "" {
		s := sets[m.Set]
		return append(loadKey(m.Fields), &expr.Lookup{SourceRegister: reg32, SetName: s.Name, SetID: s.ID, Invert: m.Not})
	}
	f := m.Fields[0]
	k := fields[f].kind
	out := []expr.Any{f.load(reg1)}
	op, data := expr.CmpOpEq, k.bytes(m.Value)
	switch {
	case f.bitmask():
		out = append(out, bits(data))
		op, data = expr.CmpOpNeq, make([]byte, len(data))
	case m.Mask != 0:
		out = append(out, bits(k.bytes(Value{Num: m.Mask})))
	}
	if m.Not {
		op = expr.CmpOpNeq
	}
	return append(out, &expr.Cmp{Op: op, Register: reg1, Data: data})
}

func bits(mask []byte) expr.Any {
	return &expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))}
}

func (a *Action) exprs(sets map[string]*nftables.Set) []expr.Any {
	lookup := func(dest uint32) []expr.Any {
		s := sets[a.Map]
		return append(loadKey(a.Fields), &expr.Lookup{SourceRegister: reg32, DestRegister: dest, IsDestRegSet: true, SetName: s.Name, SetID: s.ID})
	}
	verdict := func(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k, Chain: a.Chain}} }
	switch a.Kind {
	case Accept:
		return verdict(expr.VerdictAccept)
	case Drop:
		return verdict(expr.VerdictDrop)
	case Return:
		return verdict(expr.VerdictReturn)
	case Goto:
		return verdict(expr.VerdictGoto)
	case Verdict:
		return lookup(unix.NFT_REG_VERDICT)
	case Relay:
		to := netip.MustParseAddr(map[uint8]string{4: "127.0.0.1", 6: "::1"}[a.Family])
		return append([]expr.Any{
			&expr.Immediate{Register: reg1, Data: to.AsSlice()},
			&expr.Immediate{Register: unix.NFT_REG_2, Data: binary.BigEndian.AppendUint16(nil, a.Port)},
			&expr.TProxy{Family: nfproto(a.Family), TableFamily: unix.NFPROTO_INET, RegAddr: reg1, RegPort: unix.NFT_REG_2},
		}, verdict(expr.VerdictAccept)...)
	case RejectTCP:
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}
	case Reject:
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}
	case DNAT:
		size := uint32(kinds[map[uint8]kind{4: kindAddr4, 6: kindAddr6}[a.Family]].size)
		return append(lookup(reg1), &expr.NAT{
			Type: expr.NATTypeDestNAT, Family: uint32(nfproto(a.Family)),
			RegAddrMin: reg1, RegProtoMin: reg32 + size/regSize,
		})
	case Masquerade:
		return []expr.Any{&expr.Masq{FullyRandom: true}}
	case SetMark:
		return []expr.Any{
			&expr.Immediate{Register: reg1, Data: kindMark.bytes(Value{Num: a.Mark})},
			&expr.Meta{Key: expr.MetaKeyMARK, Register: reg1, SourceRegister: true},
		}
	case MapMark:
		return append(lookup(reg1), &expr.Meta{Key: expr.MetaKeyMARK, Register: reg1, SourceRegister: true})
	case ClampMSS:
		return []expr.Any{
			&expr.Rt{Register: reg1, Key: expr.RtTCPMSS},
			&expr.Byteorder{SourceRegister: reg1, DestRegister: reg1, Op: expr.ByteorderHton, Len: 2, Size: 2},
			&expr.Exthdr{SourceRegister: reg1, Type: 2, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt},
		}
	}
	return nil
}

// hooks of family inet (linux/netfilter.h).
var hooks = map[string]*nftables.ChainHook{
	"prerouting": nftables.ChainHookPrerouting, "input": nftables.ChainHookInput, "forward": nftables.ChainHookForward,
	"output": nftables.ChainHookOutput, "postrouting": nftables.ChainHookPostrouting,
}

func (c *Chain) kernelChain(t *nftables.Table) *nftables.Chain {
	out := &nftables.Chain{Table: t, Name: c.Name}
	if h := c.Hook; h != nil {
		policy := nftables.ChainPolicyAccept
		if h.Drop {
			policy = nftables.ChainPolicyDrop
		}
		out.Type, out.Hooknum, out.Policy = nftables.ChainType(h.Type), hooks[h.At], &policy
		out.Priority = nftables.ChainPriorityRef(nftables.ChainPriority(h.Priority))
	}
	return out
}
