package datastore

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

// maxHeader bounds the header line in bytes: a revision that changes 20,000
// resources names each of them.
const maxHeader = 4 << 20

// header is the first line of a revision file, followed by the state document.
// The whole is gzipped (RFC 1952), so its CRC covers the header, and SHA256
// the document.
type header struct {
	Number  cell.Revision `json:"number"`
	Parent  cell.Revision `json:"parent"`
	Schema  int           `json:"schema"`
	Time    time.Time     `json:"time"`
	Author  cell.Author   `json:"author"`
	Message string        `json:"message"`
	Changed []string      `json:"changed"`
	SHA256  string        `json:"sha256"`
}

// Migration turns a state document of one schema into the next one's.
type Migration func(document []byte) ([]byte, error)

// readHeader reads the first line of a revision file. The header is plausible,
// not verified: only reading the file to its end verifies it.
func readHeader(path string, want cell.Revision) (h header, size int64, err error) {
	f, size, err := open(path)
	if err != nil {
		return header{}, 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	zr, err := gzip.NewReader(bufio.NewReader(f))
	if err != nil {
		return header{}, size, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	h, err = decodeHeader(bufio.NewReader(zr), want)
	return h, size, err
}

func decodeHeader(r *bufio.Reader, want cell.Revision) (header, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) || len(line) > maxHeader {
			return header{}, fmt.Errorf("%w: no header line: %w", ErrCorrupt, err)
		}
	}
	var h header
	if err := json.Unmarshal(line, &h); err != nil {
		return header{}, fmt.Errorf("%w: header: %w", ErrCorrupt, err)
	}
	switch {
	case h.Number != want:
		return header{}, fmt.Errorf("%w: the file is named %d and holds revision %d", ErrCorrupt, want, h.Number)
	case h.Parent >= h.Number:
		return header{}, fmt.Errorf("%w: revision %d can't come from %d", ErrCorrupt, h.Number, h.Parent)
	}
	return h, nil
}

// decodeDocument verifies a whole revision file and returns its document.
func decodeDocument(file []byte, want cell.Revision) (header, []byte, error) {
	src := bytes.NewReader(file)
	zr, err := gzip.NewReader(src)
	if err != nil {
		return header{}, nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	zr.Multistream(false)
	r := bufio.NewReader(zr)
	h, err := decodeHeader(r, want)
	if err != nil {
		return header{}, nil, err
	}
	// Reading to the end makes gzip verify its CRC over header and document.
	doc, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	switch sum := sha256.Sum256(doc); {
	case err != nil:
		return header{}, nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	case len(doc) > maxFile:
		return header{}, nil, fmt.Errorf("%w: the document has more than %d bytes", ErrCorrupt, maxFile)
	case src.Len() != 0:
		return header{}, nil, fmt.Errorf("%w: %d bytes follow the revision", ErrCorrupt, src.Len())
	case hex.EncodeToString(sum[:]) != h.SHA256:
		return header{}, nil, fmt.Errorf("%w: the document's checksum differs", ErrCorrupt)
	}
	return h, doc, nil
}

// decodeState turns a verified document into a state of this program's schema.
// A field this program does not know is an error: dropping it silently would
// lose what a newer program was told.
func decodeState(doc []byte, schema int, migrations map[int]Migration) (*cell.State, error) {
	if schema > cell.Schema {
		return nil, fmt.Errorf("schema %d, this program reads %d: %w", schema, cell.Schema, ErrNewerSchema)
	}
	for ; schema < cell.Schema; schema++ {
		step, ok := migrations[schema]
		if !ok {
			return nil, fmt.Errorf("there is no migration from schema %d to %d", schema, schema+1)
		}
		var err error
		if doc, err = step(doc); err != nil {
			return nil, fmt.Errorf("migrating from schema %d to %d: %w", schema, schema+1, err)
		}
	}
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.DisallowUnknownFields()
	s := new(cell.State)
	if err := dec.Decode(s); err != nil {
		return nil, fmt.Errorf("%w: state document: %w", ErrCorrupt, err)
	}
	if s.Schema != cell.Schema {
		return nil, fmt.Errorf("%w: the document says schema %d, its header %d", ErrCorrupt, s.Schema, cell.Schema)
	}
	s.Normalize()
	return s, nil
}
