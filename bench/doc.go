// Package bench holds the benchmarks: each measures the cell, and where there
// is one a Debian peer beside it in the same run, and prints both and the ratio.
//
// They own the network namespaces that they make. They must never fail because
// something was slow: figures are for people, tests are for CI.
package bench
