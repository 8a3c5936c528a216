package datastore_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/datastore"
)

func FuzzRevisionFile(f *testing.F) {
	good, err := datastore.WriteRevision(7, household(2))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, file []byte) { readRevision(t, file) })
}

// FuzzRevisionContent begins below the compression, with checksums that fit,
// where the decoder of the document is.
func FuzzRevisionContent(f *testing.F) {
	f.Add([]byte(`{"schema":1}`), 1)
	f.Add([]byte(`{"schema":1,"peers":[{"name":"x","address4":"10.0.0.300"}]}`), 1)
	f.Add([]byte(`{}`), 99)
	f.Fuzz(func(t *testing.T, doc []byte, schema int) {
		var buf bytes.Buffer
		zw := gzip.NewWriter(&buf)
		_, _ = fmt.Fprintf(zw, `{"number":7,"parent":6,"schema":%d,"sha256":"%x"}`+"\n%s", schema, sha256.Sum256(doc), doc)
		_ = zw.Close()
		readRevision(t, buf.Bytes())
	})
}

// readRevision reads a file: either an error, or a state of our schema that
// survives being written and read again.
func readRevision(t *testing.T, file []byte) {
	s, err := datastore.ReadRevision(file, 7)
	if err != nil {
		return
	}
	if s == nil || s.Schema != cell.Schema {
		t.Fatalf("read %+v", s)
	}
	_ = s.Validate()
	again, err := datastore.WriteRevision(7, s)
	if err != nil {
		return // a time that RFC 3339 can't express, for one
	}
	if _, err := datastore.ReadRevision(again, 7); err != nil {
		t.Fatal(err)
	}
}

func FuzzStartup(f *testing.F) {
	f.Add([]byte(`{"revision":42,"sha256":"` + fmt.Sprintf("%x", sha256.Sum256(nil)) + `"}` + "\n"))
	f.Add([]byte(`{"revision":-1}`))
	f.Fuzz(func(t *testing.T, file []byte) {
		if n, err := datastore.ReadPointer(file); err == nil && n == 0 {
			t.Fatal("startup names no revision")
		}
		if s, err := datastore.ReadMark(file); err == nil && s == cell.RevisionCommitted {
			t.Fatal("a mark says committed")
		}
	})
}

func FuzzSecretFile(f *testing.F) {
	f.Add(datastore.WriteSealed([]byte("secret")))
	f.Add([]byte("secret"))
	f.Fuzz(func(t *testing.T, file []byte) {
		data, err := datastore.ReadSealed(file)
		if err == nil && !bytes.Equal(datastore.WriteSealed(data), file) {
			t.Fatal("two files hold the same secret")
		}
		if err != nil && !errors.Is(err, datastore.ErrCorrupt) {
			t.Fatal(err)
		}
	})
}
