package main

import "time"

// lastYear is the first that no clock of this program's time says rightly.
const lastYear = 2100

// plausible reports whether the clock can be right: not before this program was
// built or a time that was right once, nor before the cell's newest certificate
// unless time servers vouch for the clock, which may have been ahead when that
// was made. One-time codes and public certificates must not be judged by a clock
// that can't be; everything else goes on.
func (h *house) plausible(now time.Time) bool {
	if !h.ntp.Plausible(now) || now.Year() >= lastYear {
		return false
	}
	return h.ntp.Status().Synchronised || !now.Before(h.newestCertificate())
}

// newestCertificate is when the newest certificate of the cell's own begins.
func (h *house) newestCertificate() (newest time.Time) {
	for _, c := range h.certs.Certificates() {
		if c.NotBefore.After(newest) {
			newest = c.NotBefore
		}
	}
	return newest
}
