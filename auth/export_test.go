package auth

// SetDerive replaces argon2, so that tests decide when a derivation ends.
func (p *Passwords) SetDerive(f func(password, salt []byte, c Cost, size uint32) []byte) {
	p.derive = f
}

// ParsePHC reports whether text is a hash we would compute, and writes it back.
func ParsePHC(text string) (cost Cost, back string, err error) {
	h, err := parsePHC(text)
	if err != nil {
		return Cost{}, "", err
	}
	return h.cost, h.String(), nil
}

// Lists returns the embedded word lists.
func Lists() (setup, common, base string) { return setupWords, commonPasswords, baseWords }

// BackoffEntries is the bound of a backoff table.
const BackoffEntries = backoffEntries

// Sizes returns how many pairs and accounts are remembered.
func (b *Backoff) Sizes() (pairs, accounts int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.pairs), len(b.accounts)
}
