package cell

import "time"

// Traffic is bytes in each direction, as the cell sees it.
type Traffic struct {
	RxBytes uint64 `json:"rx_bytes" doc:"received"`
	TxBytes uint64 `json:"tx_bytes" doc:"sent"`
}

// StageSample is how a stage was doing through an interval.
type StageSample struct {
	Stage string `json:"stage"`
	// Worst is the worst state that it was in.
	Worst ConditionState `json:"worst"`
	// InSyncSeconds is how long it was as it should be.
	InSyncSeconds uint32 `json:"in_sync_seconds"`
}

// Sample is what was seen of the cell through an interval.
type Sample struct {
	// Time is when the interval begins.
	Time time.Time
	// Seconds of the interval in which the cell ran.
	Seconds uint32
	// Uptime of the process at the end, in seconds.
	Uptime uint32
	// Online is the most peers that were online.
	Online uint32
	// Recovered: the stored state was damaged and every door closed.
	Recovered bool
	Total     Traffic
	Stages    []StageSample
	// Peers are those that sent or got anything, by name.
	Peers map[string]Traffic
}

// HistoryQuery selects samples.
type HistoryQuery struct {
	Since, Until time.Time
	// Step is how long the intervals should be at least.
	Step time.Duration
	// Peer, when not empty, makes Total the traffic of that peer.
	Peer string
}
