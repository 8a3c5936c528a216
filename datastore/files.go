package datastore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/internal/atomicfile"
)

// maxFile bounds what is read of any file of ours, in bytes. A revision of
// 20,000 peers is about 12 MiB before compression.
const maxFile = 64 << 20

// DiskError is a file operation the system refused. What was there before is
// intact, and nothing half-written is left.
type DiskError struct {
	Op     string // what was being done, such as "writing revision 42"
	Advice string // what a person does about it
	Err    error
}

func (e *DiskError) Error() string { return e.Op + ": " + e.Err.Error() + ": " + e.Advice }
func (e *DiskError) Unwrap() error { return e.Err }

// failure explains a system error; errors of ours pass through with the
// operation in front.
func (s *Store) failure(op string, err error) error {
	advice := ""
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		advice = "the disk is full: free some space and try again"
	case errors.Is(err, syscall.EFBIG):
		advice = "the file would be larger than this process may write: raise the limit on file sizes and try again"
	case errors.Is(err, syscall.EROFS):
		advice = "the file system is read-only: look for disk errors in the kernel log, then mount it writable"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		advice = "the data folder must belong to the user that pic runs as, with mode 0700"
	case errors.Is(err, syscall.EIO):
		advice = "the disk reports an error: look at the kernel log and make a backup while it still reads"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		advice = "too many files are open: try again, and raise LimitNOFILE if it comes back"
	default:
		return fmt.Errorf("%s: %w", op, err)
	}
	return &DiskError{Op: op, Advice: advice, Err: err}
}

// number is a revision as a file name.
type number cell.Revision

const revisionSuffix = ".json.gz"

func (n number) mark() string { return fmt.Sprintf("%06d", uint64(n)) }
func (n number) file() string { return n.mark() + revisionSuffix }

func parseNumber(s string) (number, bool) {
	if len(s) < 6 || len(s) > 19 {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 63)
	return number(n), err == nil && n > 0 && number(n).mark() == s
}

// makeFolder makes a folder of ours with mode 0700, or checks that what is
// there is one. Only the data folder itself may be reached by a symbolic link.
func makeFolder(path string, follow bool) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		if !errors.Is(err, syscall.EROFS) || !exists(path) {
			return err
		}
	} else if err == nil {
		return atomicfile.SyncDir(filepath.Dir(path))
	}
	stat := os.Lstat
	if follow {
		stat = os.Stat
	}
	st, err := stat(path)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return fmt.Errorf("%s is not a folder: %w", path, syscall.ENOTDIR)
	}
	if err := owned(st); err != nil {
		return fmt.Errorf("%s %w", path, err)
	}
	if st.Mode().Perm() != 0o700 {
		return os.Chmod(path, 0o700)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// owned refuses what another user could have put there.
func owned(st os.FileInfo) error {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if ok && int(sys.Uid) != os.Geteuid() {
		return fmt.Errorf("belongs to user %d, not to user %d: %w", sys.Uid, os.Geteuid(), syscall.EPERM)
	}
	return nil
}

// open opens a file of ours for reading: a regular file, not reached by a
// symbolic link, that belongs to us and that others can't write.
func open(path string) (*os.File, int64, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	switch {
	case err != nil:
	case !st.Mode().IsRegular():
		err = fmt.Errorf("%s is not a regular file: %w", path, ErrCorrupt)
	case st.Mode().Perm()&0o022 != 0:
		err = fmt.Errorf("%s may be written by others (mode %v): %w", path, st.Mode().Perm(), ErrCorrupt)
	case st.Size() > maxFile:
		err = fmt.Errorf("%s has %d bytes: %w", path, st.Size(), ErrCorrupt)
	default:
		if err = owned(st); err != nil {
			err = fmt.Errorf("%s %w", path, err)
		}
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, st.Size(), nil
}

// read returns the content of a file of ours, see [open].
func read(path string) ([]byte, error) {
	f, _, err := open(path)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes: %w", path, maxFile, ErrCorrupt)
	}
	return data, errors.Join(err, f.Close())
}
