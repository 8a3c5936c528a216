package datastore

import "github.com/personal-internet-cell/pic/cell"

// ReadRevision decodes a revision file as Load does.
func ReadRevision(file []byte, n cell.Revision) (*cell.State, error) {
	h, doc, err := decodeDocument(file, n)
	if err != nil {
		return nil, err
	}
	return decodeState(doc, h.Schema, nil)
}

// WriteRevision encodes a revision file as Write does.
func WriteRevision(n cell.Revision, s *cell.State) ([]byte, error) {
	return new(encoder).encode(&header{Number: n, Parent: n - 1, Schema: s.Schema}, s)
}

// ReadPointer decodes startup.
func ReadPointer(file []byte) (cell.Revision, error) {
	p, err := parsePointer(file)
	return p.Revision, err
}

// ReadSealed decodes a secret or history file.
func ReadSealed(file []byte) ([]byte, error) { return unseal(file) }

// WriteSealed encodes one.
func WriteSealed(data []byte) []byte { return sealed(data) }

// ReadMark decodes a mark.
func ReadMark(file []byte) (cell.RevisionStatus, error) { return parseMark(file) }

// AuditFileSize makes the log's files small.
func AuditFileSize(a *Audit, most int64) { a.most = most }

// RoomOfFunction names the room of a function of the program.
func RoomOfFunction(name string) string { return roomOfFunction(name) }

// SubsystemOf is the subsystem of a line that a room logs.
func SubsystemOf(room string, attrs map[string]string) string { return subsystemOf(room, attrs) }

// Waiting is how many bytes wait for the disk.
func (l *Logs) Waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting
}

// PeerBytes is how much each resolution keeps of what peers did.
func (h *Samples) PeerBytes() (out []int) {
	for _, r := range h.rings {
		out = append(out, r.bytes)
	}
	return out
}

// Names is how many names are remembered.
func (h *Samples) Names() int { return len(h.names.of) }
