package ntp

import (
	"context"
	"crypto/md5" // #nosec: RFC 5905 §7.3 says so for IPv6 reference identifiers
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/personal-internet-cell/pic/internal/lifecycle"
)

const (
	stepAtStart  = 500 * time.Millisecond
	stepLater    = 10 * time.Minute
	fastOffset   = 20 * time.Millisecond // above: slewed at once
	fastConstant = 1                     // 8 s
	jumpNoticed  = 100 * time.Millisecond
	contestedFor = 1024 * time.Second
	rememberEach = time.Hour
	steppedShown = 24 * time.Hour
	pollGate     = 4 // RFC 5905 §7.2, PGATE
	pollLimit    = 30
)

// Mode says what is done about the machine's clock, and why no more.
type Mode string

// The modes. In all but ModeActive the clock is never written.
const (
	ModeOff       Mode = "off"       // the state says so
	ModeNoSources Mode = "none"      // no source is configured
	ModeOther     Mode = "other"     // another program steers it
	ModeDenied    Mode = "denied"    // no CAP_SYS_TIME
	ModeContested Mode = "contested" // something else wrote to it lately
	ModeActive    Mode = "active"
)

// disciplineStatus is published after every round; immutable.
type disciplineStatus struct {
	mode    Mode
	sources int
	// falsetickers name the servers that are voted out, and by how much.
	falsetickers map[string]time.Duration
	noMajority   bool
	refused      time.Time // where the sources point and can't be right
	stepped      time.Duration
	steppedAt    time.Time
}

// published is a reading of the discipline's own, with the age that it had.
type published struct {
	reading Reading
	at      time.Time
}

// discipline is the loop's own; one goroutine has it.
type discipline struct {
	s       *Server
	sources []*source
	plan    *Sources
	status  disciplineStatus

	settled    bool // the first correction was made
	poll       uint8
	jiggle     int
	rate       rate
	mine       bool        // the kernel's state is our doing
	wrote      KernelState // as it was after our last write
	contested  time.Time   // hands off until then
	remembered time.Time
	last       time.Duration // Ahead at the end of the last round; 0 unknown
	looked     time.Time
	other      string // the daemon that was found then
}

// steer keeps asking the plan's servers and corrects the clock where that is
// ours to do.
func (s *Server) steer(ctx context.Context) error {
	d := &discipline{s: s, poll: minPoll}
	if m := s.memory.Load(); m != nil && m.Boot != "" && m.Boot == bootID() {
		d.mine = true
	}
	defer func() {
		if d.status.mode == ModeActive && s.read().Synchronised() {
			s.remember(s.clock.Now())
		}
		s.steered.Store(nil)
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.replan:
		case <-timer.C:
		}
		lifecycle.Fault("clock discipline")
		d.look(time.Now())
		d.adopt(s.plan.Load())
		d.round(time.Now())
		timer.Reset(d.wait(time.Now()))
	}
}

// look finds out who else steers. It walks through all processes, so not every
// round does.
func (d *discipline) look(now time.Time) {
	if !d.looked.IsZero() && now.Sub(d.looked) < lookEvery/4 {
		return
	}
	d.looked = now
	d.s.look()
	d.other = d.s.others()
}

// adopt follows a new plan; a server that stays keeps its samples.
func (d *discipline) adopt(p *Sources) {
	if d.plan == p {
		return
	}
	d.plan = p
	known := map[string]*source{}
	for _, s := range d.sources {
		known[s.name] = s
	}
	d.sources = d.sources[:0:0]
	for _, name := range p.Servers {
		if known[name] == nil {
			known[name] = &source{name: name}
		}
		d.sources = append(d.sources, known[name])
	}
}

// wait is the time to the next round: the first source due, a minute at most.
func (d *discipline) wait(now time.Time) time.Duration {
	w := lookEvery
	for _, s := range d.sources {
		w = min(w, s.due.Sub(now))
	}
	return max(w, 10*time.Millisecond)
}

// mode decides whose the clock is.
func (d *discipline) mode(now time.Time) (Mode, KernelState) {
	if !d.plan.Discipline || d.s.adjust == nil {
		return ModeOff, KernelState{}
	}
	if len(d.sources) == 0 {
		return ModeNoSources, KernelState{}
	}
	if d.other != "" {
		d.mine = false
		return ModeOther, KernelState{}
	}
	if !d.s.adjust.Permitted() {
		return ModeDenied, KernelState{}
	}
	k, err := d.s.adjust.State()
	if err != nil {
		d.s.log.Warn("the clock can't be read", "error", err)
		return ModeDenied, k
	}
	if d.status.mode == ModeActive && d.wrote.Constant != 0 && (k.Constant != d.wrote.Constant || (k.Status^d.wrote.Status)&^unsyncBit != 0) {
		d.s.log.Warn("another program writes to the clock: leaving it alone", "for", contestedFor)
		d.contested, d.mine = now.Add(contestedFor), false
	}
	switch {
	case now.Before(d.contested):
		return ModeContested, k
	case k.Synchronised && !d.mine:
		return ModeOther, k
	}
	return ModeActive, k
}

// round asks who is due, and draws the conclusions.
func (d *discipline) round(now time.Time) {
	mode, kernel := d.mode(now)
	if mode != d.status.mode {
		d.s.log.Info("clock discipline", "mode", string(mode))
		if mode != ModeActive {
			d.s.steered.Store(nil)
			d.settled, d.wrote, d.poll, d.jiggle, d.rate = false, KernelState{}, minPoll, 0, rate{}
		}
		// Samples taken while another program steered say nothing.
		for _, s := range d.sources {
			s.filter, s.due = filter{}, time.Time{}
		}
	}
	d.status.mode, d.status.sources = mode, len(d.sources)
	active := mode == ModeActive
	if active {
		d.noticeJump(kernel.Ahead)
	}
	if fresh := d.measure(now, kernel.Pending, active); fresh && active {
		d.update(time.Now())
	}
	d.last = 0
	if active {
		if k, err := d.s.adjust.State(); err == nil {
			d.last = k.Ahead
		}
	}
	d.publish(now)
}

// noticeJump finds that somebody set the clock between two rounds (date -s), and
// brings the samples along.
func (d *discipline) noticeJump(ahead time.Duration) {
	if jump := ahead - d.last; d.last != 0 && jump.Abs() > jumpNoticed {
		d.s.log.Warn("somebody set the clock", "by", jump)
		d.shift(jump)
	}
}

// measure asks every source that is due, all at once.
func (d *discipline) measure(now time.Time, pending time.Duration, active bool) (fresh bool) {
	var due []*source
	for _, s := range d.sources {
		if !s.due.After(now) {
			due = append(due, s)
		}
	}
	replies := make([]reply, len(due))
	var wg sync.WaitGroup
	for i, s := range due {
		wg.Go(func() { replies[i] = d.s.protectedAsk(s.name) })
	}
	wg.Wait()
	now = time.Now()
	poll := uint8(comparePoll)
	if active {
		poll = d.poll
		// The offsets were measured around now, not before the questions.
		if k, err := d.s.adjust.State(); err == nil {
			pending = k.Pending
		}
	}
	for i, s := range due {
		fresh = s.take(replies[i], pending, now) || fresh
		s.schedule(now, poll, active)
	}
	return fresh
}

// update selects, clusters, combines, and corrects the clock.
func (d *discipline) update(now time.Time) {
	var cs []candidate
	for i, s := range d.sources {
		if c, ok := s.candidate(i, now, d.settled); ok {
			cs = append(cs, c)
		}
	}
	if len(cs) == 0 || (!d.settled && d.bursting()) {
		return
	}
	chimers := intersect(cs)
	d.status.noMajority = len(chimers) == 0
	if len(chimers) == 0 {
		d.s.log.Warn("no majority among the time servers", "usable", len(cs))
		return
	}
	survivors := cluster(chimers)
	offset, jitter := combine(survivors)
	d.expose(cs, chimers, offset)
	d.correct(now, offset, jitter, survivors, 2*len(chimers) > len(d.sources))
}

// bursting reports whether a source that answers has not filled its filter.
func (d *discipline) bursting() bool {
	for _, s := range d.sources {
		if s.reach&1 == 1 && s.backoff == 0 && len(s.filter.samples) < filterStages {
			return true
		}
	}
	return false
}

// expose marks the falsetickers.
func (d *discipline) expose(cs, chimers []candidate, offset time.Duration) {
	good := map[int]bool{}
	for _, c := range chimers {
		good[c.index] = true
	}
	for _, c := range cs {
		s := d.sources[c.index]
		s.falseticker, s.wrongBy = !good[c.index], c.offset-offset
	}
}

// correct steps or slews by offset, which is beyond what the kernel is slewing
// by already.
func (d *discipline) correct(now time.Time, offset, jitter time.Duration, survivors []candidate, majority bool) {
	kernel, err := d.s.adjust.State()
	if err != nil {
		d.s.log.Warn("the clock can't be read", "error", err)
		return
	}
	whole := offset + kernel.Pending
	if limit := map[bool]time.Duration{false: stepAtStart, true: stepLater}[d.settled]; whole.Abs() > limit {
		target := d.s.clock.Now().Add(whole)
		d.status.refused = time.Time{}
		if !d.s.Plausible(target) {
			d.status.refused = target
		}
		if !majority || !d.status.refused.IsZero() {
			d.status.noMajority = !majority
			return
		}
		if err := d.s.adjust.Step(whole); err != nil {
			d.s.log.Error("the clock can't be set", "error", err)
			return
		}
		d.s.log.Warn("the clock was stepped", "by", whole)
		d.status.stepped, d.status.steppedAt = whole, now
		d.shift(offset + kernel.Pending)
		kernel.Pending, whole, d.rate = 0, 0, rate{}
	}
	d.settled, d.mine, d.status.refused = true, true, time.Time{}
	d.adaptPoll(whole, jitter)

	best := survivors[0]
	src := d.sources[best.index]
	e, _ := src.filter.estimate(now)
	a := Adjustment{Offset: min(max(whole, -maxPhase), maxPhase), Constant: int64(d.poll - 1), EstimatedError: jitter, Leap: d.leap(survivors)}
	if whole.Abs() > max(fastOffset, 4*jitter) {
		a.Constant = fastConstant
	}
	wrong := d.rate.learn(offset, now)
	a.Frequency = min(max(kernel.Frequency+wrong*1e6, -maxFrequency), maxFrequency)
	r := Reading{
		Leap: a.Leap, Stratum: src.last.stratum + 1, Reference: reference(src.last.address), Source: "pic: " + src.name,
		RootDelay: src.last.rootDelay + e.delay,
		// RFC 5905 §11.2.3; what is still being slewed is added when it is read.
		RootDispersion: src.last.rootDispersion + max(e.dispersion+jitter, minDispersion) + (whole - a.Offset).Abs(),
	}
	a.MaxError = r.RootDelay/2 + r.RootDispersion + a.Offset.Abs()
	a.Unsynchronised = a.MaxError >= maxDistance
	if err := d.s.adjust.Slew(a); err != nil {
		d.s.log.Error("the clock can't be slewed", "error", err)
		return
	}
	d.shift(a.Offset - kernel.Pending)
	for _, s := range d.sources {
		s.filter.retune(wrong, now)
	}
	if k, err := d.s.adjust.State(); err == nil {
		d.wrote = k
	}
	d.s.steered.Store(&published{reading: r, at: now})
	if d.remembered.IsZero() || now.Sub(d.remembered) >= rememberEach {
		if d.s.read().Synchronised() {
			d.s.remember(d.s.clock.Now())
			d.remembered = now
		}
	}
}

func (d *discipline) shift(by time.Duration) {
	for _, s := range d.sources {
		s.filter.shift(by)
	}
}

// adaptPoll asks less often while the offset drowns in jitter (RFC 5905
// A.5.5.6).
func (d *discipline) adaptPoll(offset, jitter time.Duration) {
	if offset.Abs() < pollGate*max(jitter, time.Millisecond) {
		if d.jiggle += int(d.poll); d.jiggle > pollLimit && d.poll < maxPoll {
			d.jiggle = 0
			d.poll++
		}
	} else if d.jiggle -= 2 * int(d.poll); d.jiggle < -pollLimit {
		d.jiggle = 0
		d.poll = max(d.poll-1, minPoll)
	}
	d.jiggle = min(max(d.jiggle, -pollLimit-1), pollLimit+1)
	if offset.Abs() > fastOffset {
		d.poll, d.jiggle = minPoll, 0
	}
}

// leap is what most survivors announce.
func (d *discipline) leap(survivors []candidate) uint8 {
	votes := map[uint8]int{}
	for _, c := range survivors {
		votes[d.sources[c.index].last.leap]++
	}
	for _, l := range []uint8{leapInsert, leapDelete} {
		if 2*votes[l] > len(survivors) {
			return l
		}
	}
	return leapNone
}

// publish makes the round's outcome visible.
func (d *discipline) publish(now time.Time) {
	ms := make([]Measurement, 0, len(d.sources))
	d.status.falsetickers = map[string]time.Duration{}
	for _, s := range d.sources {
		ms = append(ms, s.measurement())
		if s.falseticker && d.status.mode == ModeActive {
			d.status.falsetickers[s.name] = s.wrongBy
		}
	}
	if !d.status.steppedAt.IsZero() && now.Sub(d.status.steppedAt) > steppedShown {
		d.status.stepped, d.status.steppedAt = 0, time.Time{}
	}
	d.s.measure.Store(&ms)
	st := d.status
	d.s.disciplined.Store(&st)
}

// reference is the identifier of a server (RFC 5905 §7.3): its IPv4 address, or
// the first four bytes of the MD5 hash of its IPv6 address.
func reference(a netip.Addr) [4]byte {
	if a.Is4() {
		return a.As4()
	}
	sum := md5.Sum(a.AsSlice())
	return [4]byte(sum[:4])
}

// read is what clients and people are told: the discipline's own account where
// it steers, the kernel's elsewhere.
func (s *Server) read() Reading {
	kernel := s.clock.Read()
	p := s.steered.Load()
	if p == nil {
		return kernel
	}
	r, age := p.reading, time.Since(p.at)
	r.Updated, r.Offset = s.clock.Now().Add(-age), kernel.Offset
	r.RootDispersion += kernel.Offset.Abs()
	if r.Stratum >= stratumUnsynchronised || r.RootDelay/2+r.RootDispersion+drift(age) >= maxDistance {
		u := unsynchronised(fmt.Sprintf("pic: the error may be over %v", maxDistance))
		u.Offset = r.Offset
		return u
	}
	return r
}
