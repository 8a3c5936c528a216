package labtest

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// TimeAnswer is what an NTP server said (RFC 5905 §7.3).
type TimeAnswer struct {
	Leap    int // 3: the server does not know the time
	Mode    int // 4: an answer of a server
	Stratum int // 1 to 15; 0 and 16: unsynchronised
	Bytes   int
	// Offset of the server's clock from this machine's.
	Offset time.Duration
}

// AskTime asks server, an address, for the time from h.
func (l *Lab) AskTime(h *Host, server string) TimeAnswer {
	l.t.Helper()
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	v, err := json.Marshal([]string{"ask-time", server})
	if err != nil {
		l.t.Fatal(err)
	}
	c := h.Command(self)
	c.Env = append(os.Environ(), selfEnv+"="+string(v))
	c.Stderr = os.Stderr
	out, err := c.Output()
	var a TimeAnswer
	if err := errors.Join(err, json.Unmarshal(out, &a)); err != nil {
		l.t.Fatalf("asking %s for the time: %v", server, err)
	}
	return a
}

// askTime sends one client packet and prints the answer as JSON.
func askTime(server string) error {
	c, err := net.Dial("udp", net.JoinHostPort(server, "123"))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	q := make([]byte, 48)
	q[0] = 4<<3 | 3 // version 4, mode 3
	sent := ntpTime(time.Now())
	binary.BigEndian.PutUint64(q[40:], sent)
	if _, err := c.Write(q); err != nil {
		return err
	}
	a := make([]byte, 1024)
	n, err := c.Read(a)
	if err != nil {
		return err
	}
	if n < 48 || binary.BigEndian.Uint64(a[24:]) != sent {
		return fmt.Errorf("%d bytes that do not answer this question", n)
	}
	back := int64(binary.BigEndian.Uint64(a[40:]) - ntpTime(time.Now()))
	return json.NewEncoder(os.Stdout).Encode(TimeAnswer{
		Leap: int(a[0] >> 6), Mode: int(a[0] & 7), Stratum: int(a[1]), Bytes: n,
		Offset: time.Duration(back>>16) * time.Second >> 16,
	})
}
