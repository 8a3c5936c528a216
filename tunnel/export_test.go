package tunnel

import (
	"log/slog"

	"golang.zx2c4.com/wireguard/conn"
)

// For the fuzz targets: the protocol that embedded devices are read and written by.
var (
	ParseUAPI  = parseUAPI
	FormatUAPI = formatUAPI
)

// NewBind returns the carrier of embedded devices.
func NewBind() conn.Bind { return &bind{log: slog.New(slog.DiscardHandler)} }

// AddressOf is Address on a kernel of the test's.
var AddressOf = address
