package proxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/personal-internet-cell/pic/internal/netnstest"
	"github.com/personal-internet-cell/pic/proxy"
)

// largeUpload is how much passes: 2 GiB up by HTTP/1.1 and a quarter of that
// otherwise, or what PIC_UPLOAD_GIB says each way (make bench: 10).
func largeUpload(t *testing.T) (size, others int64) {
	t.Helper()
	s := os.Getenv("PIC_UPLOAD_GIB")
	if s == "" {
		return 2 << 30, 512 << 20
	}
	n, err := strconv.ParseInt(s, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return n << 30, n << 30
}

// residentKiB is VmRSS, and its peak VmHWM, of a process (proc(5)).
func residentKiB(t *testing.T, pid int, field string) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), field+":")
	n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// P4: what passes is not kept. The proxy is a process of its own; its peak of
// resident memory is asked of the kernel.
func TestALargeTransferAddsNoMemory(t *testing.T) {
	if raceDetector { // its shadow memory is most of what there would be to measure
		withoutRaceDetector(t)
		return
	}
	size, others := largeUpload(t)
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Length", strconv.FormatInt(others, 10))
			_, _ = io.CopyN(w, zeros{}, others)
			return
		}
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, err)
	})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), self)
	c.Env = append(os.Environ(), fmt.Sprintf(`PIC_NETNSTEST_SELF=["loopback",%q]`, b.Listener.Addr().String()))
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	netnstest.Start(t, c)
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	r := &running{https: strings.TrimSpace(addr)}
	upload := func(client *http.Client, n int64) {
		t.Helper()
		resp, err := client.Post("https://"+lanHost+"/", "application/octet-stream", io.LimitReader(zeros{}, n))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if got, _ := io.ReadAll(resp.Body); string(got) != fmt.Sprint(n, " <nil>") {
			t.Fatalf("the service got %s", got)
		}
	}
	for _, h2 := range []bool{false, true} {
		client := r.client(t, h2)
		upload(client, 8<<20) // the first pays for buffers and stacks
		before := residentKiB(t, c.Process.Pid, "VmRSS")
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", c.Process.Pid), []byte("5"), 0); err != nil { // the peak starts anew
			t.Skipf("SKIPPED (privileged) %s: %v", t.Name(), err)
		}
		if h2 {
			size = others
		}
		upload(client, size)
		resp, err := client.Get("https://" + lanHost + "/")
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, resp.Body); n != others || err != nil {
			t.Errorf("downloaded %d of %d: %v", n, others, err)
		}
		resp.Body.Close()
		grown := (residentKiB(t, c.Process.Pid, "VmHWM") - before) / 1024
		t.Logf("HTTP/2 %v: %d MiB up and %d MiB down through a proxy of %d MiB added %d MiB", h2, size>>20, others>>20, before/1024, grown)
		if grown >= 16 {
			t.Errorf("HTTP/2 %v: memory grew by %d MiB", h2, grown)
		}
	}
}

// withoutRaceDetector runs this test in a binary that is built without it.
func withoutRaceDetector(t *testing.T) {
	t.Helper()
	netnstest.Need(t, "go")
	bin := filepath.Join(t.TempDir(), "proxy.test")
	for _, c := range []*exec.Cmd{
		exec.CommandContext(t.Context(), "go", "test", "-c", "-o", bin, "."),
		exec.CommandContext(t.Context(), bin, "-test.run", "^"+t.Name()+"$", "-test.v"),
	} {
		out, err := c.CombinedOutput()
		if t.Logf("%s", out); err != nil {
			t.Fatal(err)
		}
	}
}

// loopbackHelper runs a proxy on a port of the loopback before one upstream,
// and prints its address.
func loopbackHelper(args []string) error {
	t := &helperT{}
	r := prepare(t, proxy.Config{Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, args[0])
	}})
	fmt.Println(r.https)
	return r.Run(context.Background()) // until it is killed
}

// A service must feel a client that does not read: its answer stops, and does
// not pile up in the proxy. A client that stays away is cut off.
func TestAClientThatDoesNotReadStopsItsService(t *testing.T) {
	sent := make(chan int64, 1)
	b := backend(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.CopyN(w, zeros{}, 1<<30)
		sent <- n
	})
	r := run(t, proxy.Config{Dial: toBackend(b)})
	c := r.dialTLS(t, lanHost)
	fmt.Fprintf(c, "GET / HTTP/1.1\r\n%s\r\n", hostLine)
	if _, err := io.ReadFull(c, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	select {
	case n := <-sent:
		t.Fatalf("%d bytes were taken from the service with nobody reading", n)
	case <-time.After(500 * time.Millisecond):
	}
	c.Close()
	select {
	case n := <-sent:
		if n > 256<<20 {
			t.Errorf("%d MiB had been taken from the service", n>>20)
		}
	case <-time.After(5 * time.Second):
		t.Error("the service still writes to a client that is gone")
	}
}

// Once its header is read a client may still be too slow: it is cut off by the
// clock, and the service behind it is free again.
func TestSlowBodiesAndReadersAreCut(t *testing.T) {
	s, f := household(t)
	for _, c := range []struct {
		name  string
		send  func(net.Conn)
		limit time.Duration
		want  string
	}{
		{"a body that never comes", func(c net.Conn) {
			fmt.Fprintf(c, "POST / HTTP/1.1\r\n%sContent-Length: 10\r\n\r\n", hostLine)
		}, bodyLimit, "408"},
		{"a dripping body", func(c net.Conn) {
			fmt.Fprintf(c, "POST / HTTP/1.1\r\n%sContent-Length: 100000\r\n\r\n", hostLine)
			for range 600 {
				if _, err := c.Write([]byte("a")); err != nil {
					return
				}
				<-time.After(time.Second)
			}
		}, bodyLimit, "408"},
		{"a body in time", func(c net.Conn) {
			fmt.Fprintf(c, "POST / HTTP/1.1\r\n%sConnection: close\r\nContent-Length: 20480\r\n\r\n", hostLine)
			for range 10 {
				_, _ = c.Write(make([]byte, 2048))
				<-time.After(50 * time.Second)
			}
		}, 11 * time.Minute, "200"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				service := newPipes()
				srv := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })}
				go func() { _ = srv.Serve(service) }()
				defer srv.Close()
				https, stop := onPipesTo(t, compile(t, s, f), service)
				defer stop()
				raw := https.dial("192.168.1.50", "192.168.1.10")
				conn := tlsClient(raw, lanHost)
				began := time.Now()
				done := make(chan struct{})
				go func() { defer close(done); c.send(conn) }()
				answer, _ := io.ReadAll(conn)
				took := time.Since(began)
				raw.Close()
				<-done
				if took > c.limit || !strings.HasPrefix(string(answer), "HTTP/1.1 "+c.want) {
					t.Errorf("after %v: %.80q, want %s within %v", took, answer, c.want, c.limit)
				}
			})
		})
	}
}

const bodyLimit = 70 * time.Second

// onPipesTo is onPipes with a service behind.
func onPipesTo(t *testing.T, r proxy.Routes, service *pipes) (https *pipes, stop func()) {
	t.Helper()
	https = newPipes()
	s := newServer(t, r, proxy.Config{HTTPSAddr: "s", TLS: ephemeral(t), Listen: func(context.Context, string) (net.Listener, error) {
		return https, nil
	}, Dial: func(context.Context, string, string) (net.Conn, error) {
		return service.dial("172.20.3.1", "172.20.3.2"), nil
	}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()
	return https, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// A client that stops reading in the middle of an answer is cut off, and its
// service is released.
func TestAReaderThatStaysAwayIsCut(t *testing.T) {
	s, f := household(t)
	synctest.Test(t, func(t *testing.T) {
		service := newPipes()
		ended := make(chan time.Time, 1)
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.CopyN(w, zeros{}, 1<<30)
			ended <- time.Now()
		})}
		go func() { _ = srv.Serve(service) }()
		defer srv.Close()
		https, stop := onPipesTo(t, compile(t, s, f), service)
		defer stop()
		raw := https.dial("192.168.1.50", "192.168.1.10")
		defer raw.Close()
		conn := tlsClient(raw, lanHost)
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\n%s\r\n", hostLine)
		if _, err := io.ReadFull(conn, make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if took := (<-ended).Sub(began); took > 3*time.Minute {
			t.Errorf("held for %v", took)
		}
	})
}

// All sources together have a limit too.
func TestConnectionsAreCappedInAll(t *testing.T) {
	s, f := household(t)
	r := compile(t, s, f)
	synctest.Test(t, func(t *testing.T) {
		srv, _, plain, stop := onPipes(t, r)
		defer stop()
		var open []net.Conn
		for source := range 20 {
			for range 250 {
				open = append(open, plain.dial(fmt.Sprintf("192.168.1.%d", 100+source), "192.168.1.10"))
			}
		}
		synctest.Wait()
		if got := srv.Stats(); got.Connections != 4096 || got.Refused != 20*250-4096 {
			t.Errorf("%+v", got)
		}
		for _, c := range open {
			c.Close()
		}
		synctest.Wait()
		if got := srv.Stats().Connections; got != 0 {
			t.Errorf("%d connections left", got)
		}
	})
}

// Whoever comes when all places are taken gets one of whoever has the most,
// never one on which a request is under way; the internet never gets them all.
func TestNobodyTakesAllConnections(t *testing.T) {
	s, f := household(t)
	s.Network.PublicWeb = true
	r := compile(t, s, f)
	synctest.Test(t, func(t *testing.T) {
		srv, _, plain, stop := onPipes(t, r)
		defer stop()
		var open []net.Conn
		for i := range 4000 {
			open = append(open, plain.dial(fmt.Sprintf("198.51.100.%d", 1+i%16), "203.0.113.9"))
		}
		synctest.Wait()
		if got := srv.Stats().Connections; got != 3072 {
			t.Errorf("the internet holds %d connections", got)
		}
		for i := range 2000 {
			open = append(open, plain.dial(fmt.Sprintf("192.168.1.%d", 100+i%10), "192.168.1.10"))
		}
		synctest.Wait()
		if got := srv.Stats().Connections; got != 4096 {
			t.Errorf("%d connections", got)
		}
		late := plain.dial("192.168.1.50", "192.168.1.10")
		open = append(open, late)
		if _, err := io.WriteString(late, "GET / HTTP/1.1\r\nHost: home.internal\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		head := make([]byte, 12)
		if _, err := io.ReadFull(late, head); err != nil || string(head) != "HTTP/1.1 308" {
			t.Errorf("who came late is answered %q, %v", head, err)
		}
		synctest.Wait()
		if got := srv.Stats().Connections; got > 4096 {
			t.Errorf("%d connections", got)
		}
		for _, c := range open {
			c.Close()
		}
		synctest.Wait()
		if got := srv.Stats().Connections; got != 0 {
			t.Errorf("%d connections left", got)
		}
	})
}
