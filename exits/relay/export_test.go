package relay

// OriginOf is for the fuzz target.
var OriginOf = originOf
