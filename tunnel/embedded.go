package tunnel

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// embedded is wireguard-go in this process. It is configured by calls, not by
// its UAPI socket: those sockets are files with names global to the machine, so
// two cells in two network namespaces would take each other's.
type embedded struct {
	dev *device.Device
}

func newEmbedded(name string, mtu int, plain bool, log *slog.Logger) (*embedded, error) {
	t, err := openTUN(name, mtu, plain, log)
	if err != nil {
		return nil, fmt.Errorf("opening a TUN named %s: %w", name, err)
	}
	return &embedded{dev: device.NewDevice(t, &bind{log: log}, &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf: func(format string, args ...any) {
			log.Warn("embedded wireguard reports a problem", "device", name, "problem", fmt.Sprintf(format, args...))
		},
	})}, nil
}

const tunDevice = "/dev/net/tun"

// openTUN opens a TUN with segmentation offload (IFF_VNET_HDR), five times
// faster, or without: some vendor kernels refuse it, and some corrupt large
// segments, which only a person can notice (plain).
func openTUN(name string, mtu int, plain bool, log *slog.Logger) (tun.Device, error) {
	if _, err := os.Stat(tunDevice); err != nil { // CreateTUN's own error for this can't be told apart
		return nil, err
	}
	if !plain {
		t, err := tun.CreateTUN(name, mtu)
		if !errors.Is(err, unix.EINVAL) {
			return t, err
		}
		log.Warn("this kernel refuses segmentation offload on a TUN; going on without it", "device", name)
	}
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	f := os.NewFile(uintptr(fd), tunDevice)
	t, err := tun.CreateTUNFromFile(f, mtu)
	if err != nil {
		_ = f.Close()
	}
	return t, err
}

func (e *embedded) Show() (Observed, error) {
	text, err := e.dev.IpcGet()
	if err != nil {
		return Observed{}, err
	}
	return parseUAPI(text)
}

func (e *embedded) Set(p Patch) error {
	if p.ListenPort != nil {
		// wireguard-go closes its sockets before it opens the new ones: a taken
		// port would cut everybody off, so ask first.
		if err := probePort(*p.ListenPort); err != nil {
			return err
		}
	}
	text, err := formatUAPI(&p)
	if err != nil {
		return err
	}
	if text != "" {
		if err := e.dev.IpcSet(text); err != nil {
			return err
		}
	}
	if p.ListenPort == nil {
		return nil
	}
	return e.dev.IpcSet(fmt.Sprintf("listen_port=%d\n", *p.ListenPort))
}

// probePort reports whether the port is free in both families; EADDRINUSE when
// it is not.
func probePort(port uint16) error {
	for _, network := range []string{"udp4", "udp6"} {
		c, err := net.ListenUDP(network, &net.UDPAddr{Port: int(port)})
		if err != nil {
			if network == "udp6" && !isAddrInUse(err) {
				return nil // no IPv6 here
			}
			return err
		}
		_ = c.Close()
	}
	return nil
}

func (e *embedded) Up() error { return e.dev.Up() }

func (e *embedded) Closed() bool {
	select {
	case <-e.dev.Wait():
		return true
	default:
		return false
	}
}

func (e *embedded) Close() { e.dev.Close() }
