package datastore

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/fnv"
	"slices"

	"github.com/personal-internet-cell/pic/cell"
)

const (
	// A piece of the list of peers ends behind a name that one in pieceMean
	// names is, or at pieceMax. Being of the names and not of the positions, the
	// ends stay where they are when a peer comes or goes elsewhere.
	pieceMean = 128
	pieceMax  = 1024
)

// encoder renders revision files. With thousands of peers rendering and
// compressing them all for every change took most of a commit, so it keeps
// them in pieces, and does anew only those in which a peer is another. The file
// does not depend on what was kept. The caller holds the store's lock.
type encoder struct {
	pieces map[string]*piece // by the name of the first peer
	zip    *flate.Writer
}

// piece is some peers in a row. The peers are a copy: a part of a state's list
// would keep all of it.
type piece struct {
	peers    []cell.Peer
	text     []byte // JSON, separated by commas
	deflated []byte // whole blocks (RFC 1951), ending on a byte
}

// encode renders a revision file and fills in the header's checksum.
func (e *encoder) encode(h *header, s *cell.State) ([]byte, error) {
	before, after, err := around(s)
	if err != nil {
		return nil, err
	}
	var pieces []*piece
	if after != nil {
		if pieces, err = e.cut(s.Peers); err != nil {
			return nil, err
		}
	}
	document := document{sum: sha256.New()}
	document.add(before)
	for i, p := range pieces {
		if i > 0 {
			document.add(comma)
		}
		document.add(p.text)
	}
	document.add(after)
	h.SHA256 = hex.EncodeToString(document.sum.Sum(nil))
	head, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	if len(head) > maxHeader || document.size > maxFile {
		return nil, fmt.Errorf("the state has %d bytes, more than a revision may hold", document.size)
	}
	return e.assemble(append(head, '\n'), before, pieces, after)
}

// around renders the document without its peers: what json.Marshal makes of the
// state, up to the bracket that begins their list, and from the one that ends
// it. Where that place can't be told, before is the whole document.
func around(s *cell.State) (before, after []byte, err error) {
	rest := *s
	rest.Peers = []cell.Peer{}
	text, err := json.Marshal(&rest)
	if err != nil {
		return nil, nil, err
	}
	// In a string the quotes would have backslashes.
	place := []byte(`"peers":[]`)
	if s.Peers == nil || bytes.Count(text, place) != 1 {
		text, err = json.Marshal(s)
		return text, nil, err
	}
	i := bytes.Index(text, place) + len(place) - 1
	return text[:i:i], text[i:], nil
}

var comma = []byte{','}

// document sums up what is written of one.
type document struct {
	sum  hash.Hash
	size int
}

func (d *document) add(b []byte) {
	_, _ = d.sum.Write(b) // never fails (hash.Hash)
	d.size += len(b)
}

// cut renders the peers, in pieces.
func (e *encoder) cut(peers []cell.Peer) ([]*piece, error) {
	kept := make(map[string]*piece, len(e.pieces)+1)
	var out []*piece
	for begin := 0; begin < len(peers); {
		end := begin + 1
		for end < len(peers) && end-begin < pieceMax && !ends(peers[end-1].Name) {
			end++
		}
		part := peers[begin:end]
		p := e.pieces[part[0].Name]
		if p == nil || !slices.EqualFunc(p.peers, part, func(a, b cell.Peer) bool { return a.Identical(&b) }) {
			var err error
			if p, err = e.render(part); err != nil {
				return nil, err
			}
		}
		kept[part[0].Name] = p
		out = append(out, p)
		begin = end
	}
	e.pieces = kept
	return out, nil
}

// ends reports whether a piece ends behind the peer of that name.
func ends(name string) bool {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return h.Sum32()%pieceMean == 0
}

func (e *encoder) render(peers []cell.Peer) (*piece, error) {
	text, err := json.Marshal(peers)
	if err != nil {
		return nil, err
	}
	text = text[1 : len(text)-1]
	deflated, err := e.deflate(text)
	if err != nil {
		return nil, err
	}
	return &piece{slices.Clone(peers), text, deflated}, nil
}

// deflate compresses into blocks that refer to nothing before them and end on a
// byte: pieces can be put in a row.
func (e *encoder) deflate(text []byte) ([]byte, error) {
	var b bytes.Buffer
	if e.zip == nil {
		var err error
		if e.zip, err = flate.NewWriter(&b, flate.BestSpeed); err != nil {
			return nil, err
		}
	}
	e.zip.Reset(&b)
	if _, err := e.zip.Write(text); err != nil {
		return nil, err
	}
	if err := e.zip.Flush(); err != nil {
		return nil, err
	}
	return slices.Clip(b.Bytes()), nil
}

// assemble makes the gzip file (RFC 1952 §2.3): one member, as gzip(1) writes it.
func (e *encoder) assemble(head, before []byte, pieces []*piece, after []byte) ([]byte, error) {
	begin, err := e.deflate(slices.Concat(head, before))
	if err != nil {
		return nil, err
	}
	end, err := e.deflate(after)
	if err != nil {
		return nil, err
	}
	sum, size := crc32.NewIEEE(), 0
	count := func(b []byte) {
		_, _ = sum.Write(b)
		size += len(b)
	}
	out := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255} // deflate, no name, no time, fastest, unknown system
	out = append(out, begin...)
	count(head)
	count(before)
	for i, p := range pieces {
		if i > 0 {
			out = append(out, 0, 1, 0, 0xfe, 0xff, ',') // RFC 1951 §3.2.4: a block that holds it as it is
			count(comma)
		}
		out = append(out, p.deflated...)
		count(p.text)
	}
	out = append(out, end...)
	count(after)
	out = append(out, 1, 0, 0, 0xff, 0xff) // the last block, empty
	out = binary.LittleEndian.AppendUint32(out, sum.Sum32())
	return binary.LittleEndian.AppendUint32(out, uint32(size)), nil
}
