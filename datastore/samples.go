package datastore

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/personal-internet-cell/pic/cell"
)

// tier is one resolution of the history.
type tier struct {
	name  string
	step  int64 // seconds
	limit int   // rows
}

// tiers are the resolutions, the finest first: ten seconds for an hour, a
// minute for a day, a quarter of an hour for thirty days.
func tiers() []tier {
	return []tier{{"10s", 10, 360}, {"1m", 60, 24 * 60}, {"15m", 900, 30 * 24 * 4}}
}

const (
	// samplePeers bounds the bytes of what peers did, in each resolution: with
	// many peers the oldest rows keep the cell's totals only.
	samplePeers = 6 << 20
	// sampleNames bounds names of peers that are remembered, of those that are
	// gone too.
	sampleNames = 20_000
	sampleSave  = time.Minute
)

// Samples is the history of health and traffic, as rings of fixed size in
// memory and on the disk. It is safe for concurrent use, and a
// [lifecycle.Task] that writes what is new once a minute, without waiting for
// the disk: a kill of the process loses at most that minute.
type Samples struct {
	store  *Store
	files  []*sampleFile
	notice atomic.Pointer[string] // what was found damaged at the start
	failed atomic.Pointer[string]
	saving sync.Mutex // held while the files are written; taken before mu

	mu    sync.Mutex
	rings []*sampleRing
	names names
}

// sampleRing is the rows of one resolution, in the order in which they came.
type sampleRing struct {
	tier
	rows    []sampleRow
	bytes   int // of peers in rows
	full    int // rows before this have lost their peers
	acc     *sampleSum
	pending []sampleRow // for the disk
}

// sampleRow is one interval. What peers did is kept encoded; see encodePeers.
type sampleRow struct {
	at                      int64 // Unix seconds of its beginning
	seconds, uptime, online uint32
	recovered               bool
	total                   cell.Traffic
	stages                  []stageRow
	peers                   []byte
}

type stageRow struct {
	id     uint32
	worst  uint8 // place in worsts
	inSync uint32
}

// worsts are the states of a stage, the best first. It is read-only.
var worsts = [...]cell.ConditionState{cell.InSync, cell.Pending, cell.Failed}

// sampleSum adds rows up.
type sampleSum struct {
	row    sampleRow
	stages map[uint32]stageRow
	peers  map[uint32]cell.Traffic
}

// OpenSamples reads the history in a data folder. What is damaged is left out
// and begins anew, with a notice.
func OpenSamples(s *Store) *Samples {
	h := &Samples{store: s, names: names{ids: map[string]uint32{}, of: map[uint32]string{}}}
	for _, t := range tiers() {
		h.rings = append(h.rings, &sampleRing{tier: t})
		h.files = append(h.files, &sampleFile{dir: s.dir, name: t.name, limit: t.limit})
	}
	h.load()
	return h
}

// Add takes in what was seen in the last moments: an interval of the finest
// resolution.
func (h *Samples) Add(s *cell.Sample) {
	h.mu.Lock()
	defer h.mu.Unlock()
	row := sampleRow{
		at: s.Time.Unix(), seconds: s.Seconds, uptime: s.Uptime, online: s.Online, recovered: s.Recovered, total: s.Total,
	}
	for _, x := range s.Stages {
		r := stageRow{id: h.names.intern(x.Stage), worst: uint8(max(0, slices.Index(worsts[:], x.Worst))), inSync: x.InSyncSeconds}
		row.stages = append(row.stages, r)
	}
	peers := make(map[uint32]cell.Traffic, len(s.Peers))
	for name, t := range s.Peers {
		if t != (cell.Traffic{}) {
			peers[h.names.intern(name)] = t
		}
	}
	row.peers = encodePeers(peers)
	h.append(0, row)
	if len(h.names.of) > h.names.left+sampleNames {
		h.forget()
	}
}

// append adds a row to a ring, and what is complete by it to the next. The
// caller holds mu.
func (h *Samples) append(i int, row sampleRow) {
	r := h.rings[i]
	r.keep(row)
	r.pending = append(r.pending, row)
	if i+1 < len(h.rings) {
		h.sum(i+1, row)
	}
}

// sum adds a row of the ring below to what ring i is adding up; a row of
// another interval, later or earlier, completes it.
func (h *Samples) sum(i int, row sampleRow) {
	r := h.rings[i]
	at := row.at - row.at%r.step
	if r.acc != nil && r.acc.row.at != at {
		done := r.acc.encode()
		r.acc = nil
		h.append(i, done)
	}
	if r.acc == nil {
		r.acc = newSampleSum(at)
	}
	r.acc.add(&row)
}

func newSampleSum(at int64) *sampleSum {
	return &sampleSum{row: sampleRow{at: at}, stages: map[uint32]stageRow{}, peers: map[uint32]cell.Traffic{}}
}

func (s *sampleSum) add(row *sampleRow) {
	t := &s.row
	t.seconds += row.seconds
	t.uptime, t.online = row.uptime, max(t.online, row.online)
	t.recovered = t.recovered || row.recovered
	t.total.RxBytes += row.total.RxBytes
	t.total.TxBytes += row.total.TxBytes
	for _, x := range row.stages {
		y := s.stages[x.id]
		s.stages[x.id] = stageRow{x.id, max(x.worst, y.worst), x.inSync + y.inSync}
	}
	for id, p := range decodePeers(row.peers) {
		q := s.peers[id]
		s.peers[id] = cell.Traffic{RxBytes: p.RxBytes + q.RxBytes, TxBytes: p.TxBytes + q.TxBytes}
	}
}

func (s *sampleSum) encode() sampleRow {
	row := s.row
	row.stages = slices.SortedFunc(maps.Values(s.stages), func(a, b stageRow) int { return cmp.Compare(a.id, b.id) })
	row.peers = encodePeers(s.peers)
	return row
}

// keep adds a row, and lets what is too old or too much go.
func (r *sampleRing) keep(row sampleRow) {
	r.rows = append(r.rows, row)
	r.bytes += len(row.peers)
	for ; r.bytes > samplePeers && r.full < len(r.rows)-1; r.full++ {
		r.bytes -= len(r.rows[r.full].peers)
		r.rows[r.full].peers = nil
	}
	if len(r.rows) < r.limit+r.limit/4 {
		return
	}
	// A quarter more than is kept, so that not every row moves all others.
	gone := len(r.rows) - r.limit
	for i := range r.rows[:gone] {
		r.bytes -= len(r.rows[i].peers)
	}
	r.rows = slices.Clone(r.rows[gone:])
	r.full = max(0, r.full-gone)
}

// Query returns the samples of a time, the oldest first, and how long their
// intervals are: as long as asked for, or longer where the past is kept no
// finer. Intervals in which the cell did not run are not there.
func (h *Samples) Query(q cell.HistoryQuery) ([]cell.Sample, time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := 0
	span := int64(q.Until.Sub(q.Since) / time.Second)
	step := int64(q.Step / time.Second)
	for i+1 < len(h.rings) && (h.rings[i+1].step <= step || int64(h.rings[i].limit+1)*h.rings[i].step < span) {
		i++
	}
	r := h.rings[i]
	step = max(step-step%r.step, r.step)
	rows := r.rows[max(0, len(r.rows)-r.limit):]
	// What is not complete yet is in the sums.
	for j := i; j > 0; j-- {
		if acc := h.rings[j].acc; acc != nil {
			rows = append(rows[:len(rows):len(rows)], acc.encode())
		}
	}
	id, known := h.names.ids[q.Peer]
	sums := map[int64]*sampleSum{}
	for k := range rows {
		row := rows[k]
		if end := row.at + r.step; end <= q.Since.Unix() || row.at >= q.Until.Unix() {
			continue
		}
		at := row.at - row.at%step
		if sums[at] == nil {
			sums[at] = newSampleSum(at)
		}
		if q.Peer != "" {
			row.total = cell.Traffic{}
			if known {
				row.total = decodePeers(row.peers)[id]
			}
		}
		row.peers = nil
		sums[at].add(&row)
	}
	out := make([]cell.Sample, 0, len(sums))
	for _, at := range slices.Sorted(maps.Keys(sums)) {
		row := sums[at].encode()
		s := cell.Sample{
			Time: time.Unix(at, 0).UTC(), Seconds: min(row.seconds, uint32(step)), Uptime: row.uptime,
			Online: row.online, Recovered: row.recovered, Total: row.total,
		}
		for _, x := range row.stages {
			s.Stages = append(s.Stages, cell.StageSample{Stage: h.names.of[x.id], Worst: worsts[min(int(x.worst), len(worsts)-1)], InSyncSeconds: min(x.inSync, uint32(step))})
		}
		out = append(out, s)
	}
	return out, time.Duration(step) * time.Second
}

// names gives names numbers, which are never used again.
type names struct {
	ids  map[string]uint32
	of   map[uint32]string
	last uint32
	left int // after those that no row has were last dropped
}

func (n *names) intern(name string) uint32 {
	if id, known := n.ids[name]; known {
		return id
	}
	n.last++
	n.ids[name], n.of[n.last] = n.last, name
	return n.last
}

// forget drops names that no row has; while there are too many even so, the
// older half of the rows loses its peers. The caller holds mu.
func (h *Samples) forget() {
	h.sweep()
	for stripped := true; stripped && len(h.names.of) > 4*sampleNames; h.sweep() {
		stripped = false
		for _, r := range h.rings {
			for half := (r.full + len(r.rows)) / 2; r.full < half; r.full++ {
				r.bytes -= len(r.rows[r.full].peers)
				r.rows[r.full].peers = nil
				stripped = true
			}
		}
	}
	h.names.left = len(h.names.of)
}

func (h *Samples) sweep() {
	used := map[uint32]bool{}
	note := func(row *sampleRow) {
		for _, s := range row.stages {
			used[s.id] = true
		}
		for id := range decodePeers(row.peers) {
			used[id] = true
		}
	}
	for _, r := range h.rings {
		for i := range r.rows {
			note(&r.rows[i])
		}
		for i := range r.pending {
			note(&r.pending[i])
		}
		if r.acc != nil {
			row := r.acc.encode()
			note(&row)
		}
	}
	for id, name := range h.names.of {
		if !used[id] {
			delete(h.names.of, id)
			delete(h.names.ids, name)
		}
	}
}

// Run writes what is new once a minute until ctx ends.
func (h *Samples) Run(ctx context.Context) error {
	t := time.NewTicker(sampleSave)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			h.Save()
			return nil
		case <-t.C:
			h.Save()
		}
	}
}

// Ready is closed: samples are taken before Run does.
func (*Samples) Ready() <-chan struct{} { return alwaysReady() }

func (*Samples) String() string { return "history" }

// Notices say that the history is not kept, or was found damaged.
func (h *Samples) Notices() []cell.Notice {
	var out []cell.Notice
	if p := h.failed.Load(); p != nil {
		out = append(out, cell.Notice{
			Code: "history_not_written", Subject: "history", Severity: cell.Warning,
			Text: "The history of health and traffic can't be written to the disk: " + *p + ". Free some space on the disk of the state folder.",
		})
	}
	if p := h.notice.Load(); p != nil {
		out = append(out, cell.Notice{Code: "history_damaged", Subject: "history", Severity: cell.Info, Text: *p + ". This notice ends with the next start."})
	}
	return out
}
