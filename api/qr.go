package api

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/skip2/go-qrcode"
)

// qrLevels from the most robust to the one that holds most: a long
// configuration fits only the last (ISO/IEC 18004, table 7).
var qrLevels = []qrcode.RecoveryLevel{qrcode.Highest, qrcode.High, qrcode.Medium, qrcode.Low}

// qrVersion is the largest symbol a phone reads with ease from a screen, 85
// modules wide.
const qrVersion = 17

// qrCode encodes text, without its comment lines, at the highest error
// correction that gives an easy symbol, or at the lowest that fits at all.
func qrCode(text string) (*qrcode.QRCode, error) {
	text = withoutComments(text)
	var last *qrcode.QRCode
	for _, level := range qrLevels {
		q, err := qrcode.New(text, level)
		if err != nil {
			continue
		}
		last = q
		if q.VersionNumber <= qrVersion {
			return q, nil
		}
	}
	if last == nil {
		return nil, fmt.Errorf("encoding a QR code: %d bytes are too many", len(text))
	}
	return last, nil
}

// QRSVG renders text as a QR code: dark modules in one path on white, with the
// quiet zone of four modules.
func QRSVG(text string) ([]byte, error) {
	q, err := qrCode(text)
	if err != nil {
		return nil, err
	}
	m := q.Bitmap() // includes the quiet zone
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" shape-rendering="crispEdges"><path fill="#fff" d="M0 0h%dv%dH0z"/><path fill="#000" d="`, len(m), len(m), len(m), len(m))
	for y, line := range m {
		for x := 0; x < len(line); x++ {
			if !line[x] {
				continue
			}
			run := x
			for run < len(line) && line[run] {
				run++
			}
			fmt.Fprintf(&b, "M%d %dh%dv1h-%dz", x, y, run-x, run-x)
			x = run
		}
	}
	b.WriteString(`"/></svg>`)
	return b.Bytes(), nil
}

// QRText renders text as a QR code for a terminal, two modules a character.
func QRText(text string) (string, error) {
	q, err := qrCode(text)
	if err != nil {
		return "", err
	}
	return q.ToSmallString(false), nil
}

func withoutComments(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			b.WriteString(line)
		}
	}
	return b.String()
}
