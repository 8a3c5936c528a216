package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/personal-internet-cell/pic/api"
	"github.com/personal-internet-cell/pic/cell"
	"github.com/personal-internet-cell/pic/exits/profile"
)

// apiExits is what the API is given of the exits.
func (h *house) apiExits() api.Exits {
	return api.Exits{
		Parse: func(in cell.ExitPaste) *cell.ExitDraft {
			return profile.Parse(in, profile.Options{Now: time.Now(), Installed: installed})
		},
		Installed: installed, Status: h.exitStates, Chains: h.chainTimes, Test: h.testExit,
	}
}

// installed looks for a program where services find it: PATH, and the folders
// for administrators, which a PATH may lack.
func installed(program string) bool {
	if _, err := exec.LookPath(program); err == nil {
		return true
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin", "/sbin"} {
		if st, err := os.Stat(filepath.Join(dir, program)); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return true
		}
	}
	return false
}
