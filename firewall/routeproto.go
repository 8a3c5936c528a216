package firewall

import "github.com/personal-internet-cell/pic/cell"

// routeProtocol marks our rules and routes in the kernel.
const routeProtocol = cell.RouteProtocol
