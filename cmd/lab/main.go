// Command lab opens the household of the tests for a person: it builds the
// namespaces and servers, starts the real binary in them, says how to enter
// each host, and takes everything down again at Ctrl-C. It owns what
// internal/labtest owns. It must never be part of a release.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/personal-internet-cell/pic/internal/labtest"
)

func main() {
	labtest.Main()
	binary := flag.String("pic", "bin/pic", "the cell's `program`; empty starts none")
	firewall := flag.String("firewall", "full", "the cell's --firewall")
	flag.Parse()
	if err := run(*binary, *firewall); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func run(binary, firewall string) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if os.Geteuid() != 0 {
		return errors.New("namespaces need root")
	}
	o := labtest.Options{UI: "ui"}
	if binary != "" {
		if o.Binary, err = filepath.Abs(binary); err != nil {
			return err
		}
	}
	return open(func(t *session) {
		l := labtest.New(t, o)
		if o.Binary != "" {
			l.Cell.Start("--firewall", firewall)
		}
		describe(l)
		<-ctx.Done()
	})
}

func describe(l *labtest.Lab) {
	fmt.Println("\nThe household is open. Enter a host with:")
	for _, h := range l.Hosts() {
		fmt.Printf("  %-9s %s\n", h.Name, strings.Join(h.Enter(), " "))
	}
	fmt.Printf(`
internet  %s %s %s (DNS, NTP, web); names: %s
router    %s outside, %s inside; forwards 51820/udp to the cell
lan       %s: curl -k https://%s/
service   http://%s:%s/ (also /stream and /ws)
phone     %s; a peer to be: wg-quick up there
laptop    %s
`, labtest.InternetDNS4, labtest.InternetNTP4, labtest.InternetWeb4, labtest.PublicName,
		labtest.RouterPublic4, labtest.RouterLAN4, labtest.LANAddress4, labtest.CellAddress4,
		labtest.ServiceAddress, labtest.ServicePort, labtest.PhoneAddress4, labtest.LaptopAddress4)
	fmt.Printf("\nThe cell's socket is %s (pic status --socket …).\n", l.Cell.Socket())
	if l.Cell.Running() {
		fmt.Println(l.Cell.CLI("setup-code"))
	}
	fmt.Println("Ctrl-C takes everything down.")
}
