package dns

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchSize is how many messages one system call takes from a socket, and one
// gives back: under load the calls cost more than the answers.
const batchSize = 32

// batch is the buffers of one UDP socket's reader. Its answers go to where
// its questions came from; the socket is bound to one address, so that is
// where they come from.
type batch struct {
	in, out batchHeaders
	names   [batchSize]unix.RawSockaddrInet6 // the larger of the two families
	oob     [batchSize][64]byte              // one packet info is 28 or 36 bytes
	queries [batchSize][maxQuery]byte
	answers [batchSize][maxUDP]byte
	sent    int // answers in out

	// The name of the interface of the messages before, within this batch.
	index uint32
	link  string
}

// batchHeaders are what recvmmsg(2) and sendmmsg(2) take. The kernel's struct
// mmsghdr ends with the length of the message.
type batchHeaders struct {
	messages [batchSize]struct {
		unix.Msghdr
		size uint32
	}
	vectors [batchSize]unix.Iovec
}

func newBatch() *batch {
	b := &batch{}
	for i := range batchSize {
		in, out := &b.in, &b.out
		in.vectors[i].Base = &b.queries[i][0]
		in.vectors[i].SetLen(maxQuery)
		in.messages[i].Iov = &in.vectors[i]
		in.messages[i].SetIovlen(1)
		in.messages[i].Name = (*byte)(unsafe.Pointer(&b.names[i]))
		in.messages[i].Control = &b.oob[i][0]
		out.vectors[i].Base = &b.answers[i][0]
		out.messages[i].Iov = &out.vectors[i]
		out.messages[i].SetIovlen(1)
	}
	return b
}

// receive waits for one message, takes those that are there already with it,
// and returns how many came.
func (b *batch) receive(fd int) (int, error) {
	b.sent, b.index, b.link = 0, 0, ""
	for i := range b.in.messages {
		m := &b.in.messages[i]
		m.Namelen = unix.SizeofSockaddrInet6
		m.SetControllen(len(b.oob[i]))
		m.Flags = 0
	}
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.in.messages[0])), batchSize, unix.MSG_WAITFORONE, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// query returns message i and its source; false is one that is not whole or
// has no source that could be answered.
func (b *batch) query(i int) ([]byte, netip.AddrPort, bool) {
	m := &b.in.messages[i]
	src := sockaddr(&b.names[i])
	if m.Flags&unix.MSG_TRUNC != 0 || src.Port() == 0 {
		return nil, src, false
	}
	return b.queries[i][:min(m.size, maxQuery)], src, true
}

// ingress is the name of the interface that message i came in by. It is asked
// for once for messages in a row.
func (b *batch) ingress(fd, i int) string {
	size := min(int(b.in.messages[i].Controllen), len(b.oob[i]))
	if index := infoIndex(b.oob[i][:size]); index != b.index {
		b.index, b.link = index, linkName(fd, index)
	}
	return b.link
}

// buffer is where the next answer can be built, up to maxUDP bytes.
func (b *batch) buffer() []byte { return b.answers[b.sent][:0] }

// reply queues an answer to message i; what buffer gave is not copied.
func (b *batch) reply(i int, answer []byte) {
	if len(answer) == 0 || len(answer) > maxUDP {
		return
	}
	if &answer[0] != &b.answers[b.sent][0] {
		copy(b.answers[b.sent][:], answer)
	}
	m := &b.out.messages[b.sent]
	m.Name, m.Namelen = b.in.messages[i].Name, b.in.messages[i].Namelen
	b.out.vectors[b.sent].SetLen(len(answer))
	b.sent++
}

// send gives the answers to the kernel. One that it doesn't take, because
// there is no route back for one, is skipped.
func (b *batch) send(fd int) {
	for begin := 0; begin < b.sent; {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.out.messages[begin])), uintptr(b.sent-begin), 0, 0, 0)
		switch {
		case errno == 0:
			begin += max(int(n), 1)
		case errno != unix.EINTR:
			begin++
		}
	}
}

// sockaddr reads what the kernel wrote; a zone is the number of an interface.
func sockaddr(sa *unix.RawSockaddrInet6) netip.AddrPort {
	switch sa.Family {
	case unix.AF_INET:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), port(&in.Port))
	case unix.AF_INET6:
		a := netip.AddrFrom16(sa.Addr)
		if sa.Scope_id != 0 {
			a = a.WithZone(strconv.Itoa(int(sa.Scope_id)))
		}
		return netip.AddrPortFrom(a, port(&sa.Port))
	}
	return netip.AddrPort{}
}

// port is kept in network order.
func port(p *uint16) uint16 {
	return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(p))[:])
}
