package tunnel

// For the fuzz targets: the protocol that embedded devices are read and written by.
var (
	ParseUAPI  = parseUAPI
	FormatUAPI = formatUAPI
)
