package exits

import (
	"fmt"
	"net"
	"strconv"
)

const changedKey = "the server shows another host key than the one that is pinned: if its owner changed it, accept the new key; if not, somebody is in between"

// serverName tells the pins apart: by exit and address, because a server that
// was replaced by another is another.
func serverName(e *Exit) string {
	return e.ID + " " + net.JoinHostPort(e.SSH.Host, strconv.Itoa(int(e.SSH.Port)))
}

// pin accepts the host key of an SSH exit's server: the first that is seen is
// kept, another is refused until the key stands in the exit's configuration.
func (w *worker) pin(e *Exit, key string) error {
	name := serverName(e)
	known, err := w.c.conf.Pins.LoadPin(name)
	if err != nil {
		return fmt.Errorf("reading the host key that was seen first: %w", err)
	}
	switch known {
	case key:
	case "":
		if err := w.c.conf.Pins.SavePin(name, key); err != nil {
			return fmt.Errorf("keeping the host key: %w", err)
		}
		w.c.log.Info("host key pinned", "exit", e.ID, "key", key)
	default:
		return &Problem{Code: CodeHostKey, HostKey: key, Text: changedKey}
	}
	return nil
}

// pinned is the host key in force, "" while none was seen.
func (c *Controller) pinned(e *Exit) string {
	if e.SSH == nil || e.SSH.HostKey != "" || c.conf.Pins == nil {
		if e.SSH != nil {
			return e.SSH.HostKey
		}
		return ""
	}
	key, err := c.conf.Pins.LoadPin(serverName(e))
	if err != nil {
		return ""
	}
	return key
}
