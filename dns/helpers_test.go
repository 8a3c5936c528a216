package dns_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"

	mdns "github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/dns"
)

// wanted is what the cell's process is told on its standard input.
type wanted struct {
	State *cell.State
	Facts cell.Facts
}

// did is what it answers with, one line each.
type did struct {
	Changed bool
	Error   string
	Status  dns.Status
}

// cellHelper serves DNS as a cell does: each line on stdin is applied. Exits
// are interfaces of their names.
func cellHelper([]string) error {
	s := dns.New(&dns.Config{
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Dial: func(exit string) (dns.Dialer, error) {
			if _, err := net.InterfaceByName(exit); err != nil {
				return nil, err
			}
			return &net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
				cerr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), exit) })
				return errors.Join(cerr, err)
			}}, nil
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var w wanted
		if err := json.Unmarshal(in.Bytes(), &w); err != nil {
			return err
		}
		v, err := dns.Compile(w.State, w.Facts)
		if err != nil {
			return err
		}
		var d did
		if d.Changed, err = s.Apply(ctx, v); err != nil {
			d.Error = err.Error()
		}
		d.Status = s.Status()
		b, err := json.Marshal(d)
		if err != nil {
			return err
		}
		fmt.Println(string(b))
	}
	return in.Err()
}

// upstreamHelper is a resolver of the internet: args are its address and a
// file to which it writes every name it is asked for.
func upstreamHelper(args []string) error {
	asked, err := os.OpenFile(args[1], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	handler := mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		name := strings.ToLower(q.Question[0].Name)
		fmt.Fprintln(asked, name, mdns.TypeToString[q.Question[0].Qtype])
		data := "A 198.51.101.1"
		if strings.HasPrefix(name, "rebind.") {
			data = "A 192.168.7.20"
		}
		rr, err := mdns.NewRR(q.Question[0].Name + " 60 IN " + data)
		if err != nil {
			return
		}
		r := new(mdns.Msg).SetReply(q)
		switch {
		case strings.HasPrefix(name, "tcp.") && w.LocalAddr().Network() == "udp":
			r.Truncated = true
		case q.Question[0].Qtype == mdns.TypeA:
			r.Answer = []mdns.RR{rr}
		}
		_ = w.WriteMsg(r)
	})
	p, err := net.ListenPacket("udp", args[0])
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	fmt.Println("ready")
	go func() { _ = (&mdns.Server{Listener: l, Handler: handler}).ActivateAndServe() }()
	return (&mdns.Server{PacketConn: p, Handler: handler}).ActivateAndServe()
}
