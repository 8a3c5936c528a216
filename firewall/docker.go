package firewall

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/personal-internet-cell/pic/cell"
)

// Docker sets the policy of iptables' FORWARD to drop, and an accept in a table
// of ours does not override that. The chain DOCKER-USER is the place Docker
// leaves to others and does not empty when it restarts.
const (
	filterTable   = "filter"
	filterForward = "FORWARD"
	dockerUser    = "DOCKER-USER"
)

// passDocker keeps two rules at the head of DOCKER-USER, where there is one:
// what comes in by the tunnel's link or leaves by it is not for Docker to drop.
// It ends Docker's chain only; the tables of ours judge the same packet too.
// With on false the rules are removed. What goes wrong is a notice: a firewall
// of others must not hold up ours.
func (c *Controller) passDocker(on bool) (changed bool) {
	if c.known.passed != nil && *c.known.passed == on && c.still() {
		return false
	}
	var errs []error
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		did, err := passDockerIn(family, on)
		changed = changed || did
		errs = append(errs, err)
	}
	err := errors.Join(errs...)
	c.notices.set(cell.Notice{
		Code: "firewall_docker", Subject: dockerUser, Severity: cell.Warning,
		Text: fmt.Sprintf("Docker's firewall drops what peers send, and letting it through did not work: %v. %s", err, dockerCure),
	}, err != nil)
	if err == nil && !changed && c.still() {
		c.known.passed = &on
	}
	return changed
}

const dockerCure = "Run: iptables -I DOCKER-USER -i pic0 -j ACCEPT; iptables -I DOCKER-USER -o pic0 -j ACCEPT, and the same with ip6tables."

func passDockerIn(family nftables.TableFamily, on bool) (changed bool, err error) {
	c, err := dialNFT()
	if err != nil {
		return false, err
	}
	defer func() { _ = c.CloseLasting() }()
	chain, err := dockerChain(c, family)
	if chain == nil || err != nil {
		return false, err
	}
	rules, err := c.GetRules(chain.Table, chain)
	if err != nil {
		return false, fmt.Errorf("reading chain %s: %w", dockerUser, err)
	}
	for _, key := range []expr.MetaKey{expr.MetaKeyOIFNAME, expr.MetaKeyIIFNAME} {
		i := slices.IndexFunc(rules, func(r *nftables.Rule) bool { return passes(r, key) })
		switch {
		case on && i < 0:
			c.InsertRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: passRule(key)})
		case !on && i >= 0:
			if err := c.DelRule(rules[i]); err != nil {
				return false, fmt.Errorf("deleting a rule of chain %s: %w", dockerUser, err)
			}
		default:
			continue
		}
		changed = true
	}
	if !changed {
		return false, nil
	}
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) { // gone meanwhile: its return is an event
		return false, fmt.Errorf("writing chain %s: %w", dockerUser, err)
	}
	return err == nil, nil
}

// dockerChain is nil where there is none.
func dockerChain(c *nftables.Conn, family nftables.TableFamily) (*nftables.Chain, error) {
	chains, err := c.ListChainsOfTableFamily(family)
	if err != nil {
		return nil, fmt.Errorf("listing chains: %w", err)
	}
	for _, ch := range chains {
		if ch.Table.Name == filterTable && ch.Name == dockerUser {
			return ch, nil
		}
	}
	return nil, nil
}

// passRule is what iptables-nft makes of `-i pic0 -j ACCEPT` or `-o`, to the
// byte: it compares the name with its final zero. A form that iptables can't
// read back (a set look-up) would come out of iptables-save as a bare accept.
func passRule(key expr.MetaKey) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(cell.TunnelLink + "\x00")},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}
}

// passes reports whether r is a rule of passRule's form.
func passes(r *nftables.Rule, key expr.MetaKey) bool {
	var meta, name, accept bool
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Meta:
			meta = !meta && e.Key == key
		case *expr.Cmp:
			name = !name && e.Op == expr.CmpOpEq && string(e.Data) == cell.TunnelLink+"\x00"
		case *expr.Counter:
		case *expr.Verdict:
			accept = e.Kind == expr.VerdictAccept
		default:
			return false
		}
	}
	return meta && name && accept
}

// legacyDocker reports whether Docker is here and iptables' rules are in the
// old tables, which nftables can neither see nor change.
func legacyDocker() bool {
	b, err := os.ReadFile("/proc/self/net/ip_tables_names")
	if err != nil || !slices.Contains(strings.Fields(string(b)), filterTable) {
		return false
	}
	_, err = os.Stat("/proc/sys/net/ipv4/conf/docker0")
	return err == nil
}
