package ntp

import (
	"encoding/binary"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/cell"
)

// Status is what the server does and what its clock is worth.
type Status struct {
	Running               bool    `json:"running"`
	Synchronised          bool    `json:"synchronised"`
	Stratum               int     `json:"stratum"`
	OffsetSeconds         float64 `json:"offset_seconds"`
	RootDelaySeconds      float64 `json:"root_delay_seconds"`
	RootDispersionSeconds float64 `json:"root_dispersion_seconds"`
	Reference             string  `json:"reference"`
	Leap                  int     `json:"leap"`
	Source                string  `json:"source"`
	// Clients were heard of within the last hour.
	Clients int    `json:"clients"`
	Answers uint64 `json:"answers"`
	// Limited counts requests to send less, Dropped packets that met silence,
	// Panics those that were recovered from.
	Limited   uint64           `json:"limited"`
	Dropped   uint64           `json:"dropped"`
	Panics    uint64           `json:"panics"`
	Listeners []ListenerStatus `json:"listeners"`
	// Mode says whether the cell steers the clock itself.
	Mode Mode `json:"mode"`
	// Servers are the comparisons with other servers, where any are named.
	Servers []Measurement `json:"servers"`
}

// ListenerStatus is one address, served or not.
type ListenerStatus struct {
	Address string `json:"address"`
	Up      bool   `json:"up"`
	Problem string `json:"problem"`
}

// Status returns a snapshot; lists are never nil. Where the kernel doesn't
// know its offset, the median of the comparisons stands in.
func (s *Server) Status() Status {
	r := s.read()
	st := Status{
		Synchronised: r.Synchronised(), Stratum: int(r.Stratum), OffsetSeconds: r.Offset.Seconds(), RootDelaySeconds: r.RootDelay.Seconds(),
		RootDispersionSeconds: r.RootDispersion.Seconds(), Reference: referenceText(r), Leap: int(r.Leap), Source: r.Source,
		Clients: s.limit.clients(time.Now()), Answers: s.answers.Load(), Limited: s.kisses.Load(), Dropped: s.dropped.Load(), Panics: s.panics.Load(),
		Listeners: []ListenerStatus{}, Servers: []Measurement{},
	}
	st.Mode = ModeOff
	if d := s.disciplined.Load(); d != nil {
		st.Mode = d.mode
	}
	if m := s.measure.Load(); m != nil {
		st.Servers = slices.Clone(*m)
	}
	if off, ok := median(st.Servers); ok && (r.Offset == 0 || !r.Synchronised()) {
		st.OffsetSeconds = off
	}
	s.mu.Lock()
	for _, l := range s.listeners.States() {
		st.Listeners = append(st.Listeners, ListenerStatus{Address: l.Address.String(), Up: l.Problem == "", Problem: l.Problem})
	}
	st.Running = s.listeners.Serving()
	s.mu.Unlock()
	return st
}

// Notices are the problems a person should know of.
func (s *Server) Notices() []cell.Notice {
	var out []cell.Notice
	st := s.Status()
	for _, l := range st.Listeners {
		if !l.Up {
			out = append(out, cell.Notice{Code: "ntp_listen", Subject: l.Address, Severity: cell.Warning, Text: l.Problem})
		}
	}
	return append(out, s.clockNotices(st.Running && !st.Synchronised)...)
}

// referenceText writes a reference identifier as RFC 5905 §7.3 reads it.
func referenceText(r Reading) string {
	if r.Stratum <= 1 || r.Stratum >= stratumUnsynchronised {
		return strings.TrimRight(string(r.Reference[:]), "\x00")
	}
	return addrText(r.Reference)
}

// timespec reads the kernel's struct timespec, whose words are as wide as the
// machine's.
func timespec(b []byte) (time.Time, bool) {
	if len(b) < int(unsafe.Sizeof(unix.Timespec{})) {
		return time.Time{}, false
	}
	if unsafe.Sizeof(unix.Timespec{}) == 16 {
		return time.Unix(int64(binary.NativeEndian.Uint64(b)), int64(binary.NativeEndian.Uint64(b[8:]))), true
	}
	return time.Unix(int64(int32(binary.NativeEndian.Uint32(b))), int64(int32(binary.NativeEndian.Uint32(b[4:])))), true
}
