package auth

import "sync"

// Claim makes sure that a cell is claimed once. The zero value is unclaimed; it
// is safe for concurrent use.
type Claim struct {
	mu    sync.Mutex
	state claimState
}

type claimState int

const (
	unclaimed claimState = iota
	claiming
	claimed
)

// NewClaim returns the claim of a cell that has, or has not, an owner.
func NewClaim(owned bool) *Claim {
	c := &Claim{}
	if owned {
		c.state = claimed
	}
	return c
}

// Do runs claim if nobody has claimed the cell and nobody is at it: of any
// number of callers one succeeds. If claim fails or panics, the cell is
// unclaimed again and the next caller may try. The others get ErrClaimed or
// ErrClaiming and don't wait.
func (c *Claim) Do(claim func() error) error {
	c.mu.Lock()
	switch c.state {
	case claimed:
		c.mu.Unlock()
		return ErrClaimed
	case claiming:
		c.mu.Unlock()
		return ErrClaiming
	}
	c.state = claiming
	c.mu.Unlock()

	after := unclaimed
	defer func() {
		c.mu.Lock()
		c.state = after
		c.mu.Unlock()
	}()
	if err := claim(); err != nil {
		return err
	}
	after = claimed
	return nil
}

// Claimed reports whether the cell has an owner.
func (c *Claim) Claimed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state == claimed
}
