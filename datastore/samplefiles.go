package datastore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/personal-internet-cell/pic/cell"
)

const (
	samplesDir    = "samples" // 10s, 1m, 15m, and the file before each
	sampleMagic   = "PICHIST1"
	sampleFileMax = 8 << 20
	sampleRecord  = 1 << 20 // bytes of one record
	// A row of the finest resolution is written without its peers when there
	// are more: it is in the minute's row.
	sampleFinePeers = 8 << 10

	recordName = 'n'
	recordRow  = 'r'
)

// sampleFile is one resolution on the disk: a magic word, then records, each
// its length, the CRC-32C of its body, and the body. A name's record gives a
// number a meaning for the rows after it.
type sampleFile struct {
	dir, name string
	limit     int // rows of a file

	f     *os.File // nil: not open
	size  int64
	rows  int             // in the file
	known map[uint32]bool // numbers that this process has explained in the file
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// appendRecord frames a body.
func appendRecord(b []byte, body []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(body, castagnoli()))
	return append(b, body...)
}

// nextRecord returns the first body and what follows; nil at the end, and an
// error for what is no record. An unfinished one at the end is torn.
func nextRecord(b []byte) (body, rest []byte, torn bool, err error) {
	if len(b) == 0 {
		return nil, nil, false, nil
	}
	if len(b) < 8 {
		return nil, nil, true, nil
	}
	n := binary.LittleEndian.Uint32(b)
	if n == 0 || n > sampleRecord {
		return nil, nil, false, fmt.Errorf("%w: a record of %d bytes", ErrCorrupt, n)
	}
	if uint64(len(b)) < 8+uint64(n) {
		return nil, nil, true, nil
	}
	body = b[8 : 8+n]
	if crc32.Checksum(body, castagnoli()) != binary.LittleEndian.Uint32(b[4:]) {
		return nil, nil, false, fmt.Errorf("%w: the checksum of a record differs", ErrCorrupt)
	}
	return body, b[8+n:], false, nil
}

// encodeRow writes a row's body.
func encodeRow(r *sampleRow) []byte {
	b := []byte{recordRow, 0}
	if r.recovered {
		b[1] = 1
	}
	b = binary.AppendVarint(b, r.at)
	for _, n := range []uint64{uint64(r.seconds), uint64(r.uptime), uint64(r.online), r.total.RxBytes, r.total.TxBytes, uint64(len(r.stages))} {
		b = binary.AppendUvarint(b, n)
	}
	for _, s := range r.stages {
		b = binary.AppendUvarint(b, uint64(s.id))
		b = append(b, s.worst)
		b = binary.AppendUvarint(b, uint64(s.inSync))
	}
	return append(b, r.peers...)
}

// reader takes numbers off bytes; bad stays true once something was missing.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uint(most uint64) uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 || n > most {
		r.bad = true
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) int() int64 {
	n, size := binary.Varint(r.b)
	if size <= 0 {
		r.bad = true
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

const (
	most32 = 1<<32 - 1
	most64 = 1<<64 - 1
)

// decodeRow reads a row's body after its kind, with the file's numbers.
func decodeRow(b []byte) (sampleRow, error) {
	r := &reader{b: b}
	row := sampleRow{recovered: r.byte() == 1, at: r.int()}
	row.seconds, row.uptime, row.online = uint32(r.uint(most32)), uint32(r.uint(most32)), uint32(r.uint(most32))
	row.total = cell.Traffic{RxBytes: r.uint(most64), TxBytes: r.uint(most64)}
	for range r.uint(100) {
		row.stages = append(row.stages, stageRow{uint32(r.uint(most32)), r.byte(), uint32(r.uint(most32))})
	}
	row.peers = slices.Clone(r.b)
	// Years 1970 to 9999: what a clock can say.
	if r.bad || row.at < 0 || row.at > 253402300799 {
		return row, fmt.Errorf("%w: a row is cut", ErrCorrupt)
	}
	return row, nil
}

// encodePeers writes what peers did: number (as the difference to the one
// before), received, sent.
func encodePeers(peers map[uint32]cell.Traffic) []byte {
	if len(peers) == 0 {
		return nil
	}
	b := make([]byte, 0, 8*len(peers))
	last := uint32(0)
	for _, id := range slices.Sorted(maps.Keys(peers)) {
		b = binary.AppendUvarint(b, uint64(id-last))
		b = binary.AppendUvarint(b, peers[id].RxBytes)
		b = binary.AppendUvarint(b, peers[id].TxBytes)
		last = id
	}
	return b
}

// decodePeers reads what encodePeers wrote; of anything else, what it can.
func decodePeers(b []byte) map[uint32]cell.Traffic {
	out := map[uint32]cell.Traffic{}
	last := uint64(0)
	for r := (&reader{b: b}); len(r.b) > 0; {
		last += r.uint(most32)
		t := cell.Traffic{RxBytes: r.uint(most64), TxBytes: r.uint(most64)}
		if r.bad || last > most32 {
			break
		}
		out[uint32(last)] = t
	}
	return out
}

// load reads all files. The numbers in them become ours.
func (h *Samples) load() {
	damaged := 0
	for i, f := range h.files {
		for _, path := range []string{f.path() + logOld, f.path()} {
			n, err := h.loadFile(i, path)
			damaged += n
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				damaged++
				h.store.log.Warn("reading the history", "file", filepath.Base(path), "error", err)
			}
		}
	}
	if damaged > 0 {
		text := fmt.Sprintf("%d files of the history of health and traffic were damaged: what came before the damage is kept, the rest begins anew", damaged)
		h.notice.Store(&text)
	}
	// What was being added up when the last process ended is added up again.
	for i := 1; i < len(h.rings); i++ {
		below, r := h.rings[i-1], h.rings[i]
		from := int64(0)
		if len(r.rows) > 0 {
			from = r.rows[len(r.rows)-1].at + r.step
		}
		for _, row := range below.rows {
			if row.at >= from {
				h.sum(i, row)
			}
		}
	}
}

// loadFile reads one file, and cuts off what is damaged or unfinished, so that
// what is added is found again.
func (h *Samples) loadFile(i int, path string) (damaged int, err error) {
	data, err := read(path)
	if err != nil {
		return 0, err
	}
	if len(data) == 0 {
		return 0, nil // made, and not written yet
	}
	rest, is := data, len(data) >= len(sampleMagic) && string(data[:len(sampleMagic)]) == sampleMagic
	if !is {
		return 1, os.Remove(path)
	}
	rest = rest[len(sampleMagic):]
	ours := map[uint32]uint32{}
	h.files[i].rows = 0 // of this file; the newest is read last
	for {
		body, next, torn, err := nextRecord(rest)
		if err == nil && body != nil {
			err = h.loadRecord(i, body, ours)
		}
		if err != nil || torn {
			if err != nil {
				damaged = 1
			}
			return damaged, os.Truncate(path, int64(len(data)-len(rest)))
		}
		if body == nil {
			return 0, nil
		}
		rest = next
	}
}

func (h *Samples) loadRecord(i int, body []byte, ours map[uint32]uint32) error {
	f := h.files[i]
	switch body[0] {
	case recordName:
		r := &reader{b: body[1:]}
		id := uint32(r.uint(most32))
		if r.bad || len(r.b) == 0 || len(r.b) > 200 || len(h.names.of) > 2*sampleNames {
			return fmt.Errorf("%w: a name is cut", ErrCorrupt)
		}
		ours[id] = h.names.intern(string(r.b))
	case recordRow:
		f.rows++
		row, err := decodeRow(body[1:])
		if err != nil {
			return err
		}
		for k := range row.stages {
			row.stages[k].id = ours[row.stages[k].id]
		}
		peers := map[uint32]cell.Traffic{}
		for id, t := range decodePeers(row.peers) {
			if to, known := ours[id]; known {
				peers[to] = t
			}
		}
		row.peers = encodePeers(peers)
		h.rings[i].keep(row)
	default:
		return fmt.Errorf("%w: a record of kind %q", ErrCorrupt, body[0])
	}
	return nil
}

func (f *sampleFile) path() string { return filepath.Join(f.dir, samplesDir, f.name) }

// Save writes what is new. It is called by Run, and at the end.
func (h *Samples) Save() {
	h.saving.Lock()
	defer h.saving.Unlock()
	var failed error
	for i, f := range h.files {
		h.mu.Lock()
		rows := h.rings[i].pending
		h.rings[i].pending = nil
		of := map[uint32]string{}
		for k := range rows {
			if i == 0 && len(rows[k].peers) > sampleFinePeers {
				rows[k].peers = nil
			}
			for _, s := range rows[k].stages {
				of[s.id] = h.names.of[s.id]
			}
			for id := range decodePeers(rows[k].peers) {
				of[id] = h.names.of[id]
			}
		}
		h.mu.Unlock()
		if err := f.write(rows, of); err != nil {
			failed = err
		}
	}
	if failed == nil {
		h.failed.Store(nil)
		return
	}
	text := failed.Error()
	h.failed.Store(&text)
}

// write appends rows, with the names that are new to the file before them.
func (f *sampleFile) write(rows []sampleRow, of map[uint32]string) error {
	if len(rows) == 0 {
		return nil
	}
	if f.f != nil && (f.rows >= f.limit || f.size >= sampleFileMax) {
		old := f.f
		f.f, f.rows = nil, 0
		if err := errors.Join(old.Close(), os.Rename(f.path(), f.path()+logOld)); err != nil {
			return err
		}
	}
	if f.f == nil {
		if err := f.openFile(); err != nil {
			return err
		}
	}
	var b []byte
	if f.size == 0 {
		b = append(b, sampleMagic...)
	}
	for _, id := range slices.Sorted(maps.Keys(of)) {
		if !f.known[id] && of[id] != "" {
			f.known[id] = true
			b = appendRecord(b, append(binary.AppendUvarint([]byte{recordName}, uint64(id)), of[id]...))
		}
	}
	for i := range rows {
		body := encodeRow(&rows[i])
		if len(body) > sampleRecord {
			rows[i].peers = nil
			body = encodeRow(&rows[i])
		}
		b = appendRecord(b, body)
	}
	n, err := f.f.Write(b)
	if err != nil {
		if n > 0 { // a full disk: what was written of it goes, or it would hide what follows
			err = errors.Join(err, f.f.Truncate(f.size))
		}
		err = errors.Join(err, f.f.Close())
		f.f = nil
		return err
	}
	f.size += int64(n)
	f.rows += len(rows)
	return nil
}

// openFile opens the file to append to.
func (f *sampleFile) openFile() error {
	if err := os.Mkdir(filepath.Dir(f.path()), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	file, err := os.OpenFile(f.path(), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	st, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	f.f, f.size, f.known = file, st.Size(), map[uint32]bool{}
	return nil
}

// Close writes what is new.
func (h *Samples) Close() error {
	h.Save()
	h.saving.Lock()
	defer h.saving.Unlock()
	var errs []error
	for _, f := range h.files {
		if f.f != nil {
			errs = append(errs, f.f.Close())
			f.f = nil
		}
	}
	return errors.Join(errs...)
}
