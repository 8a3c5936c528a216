// Package firewall decides what may pass through the cell and which way it
// leaves, and keeps that true when any one part of the decision is lost.
//
// It owns three nft tables (inet pic, inet pic_guard, inet pic_acct), a
// fourth (inet pic_early) from early boot until the first Apply, the policy rules and routes tagged with [cell.RouteProtocol], and the sysctls it
// names in its plan.
//
// It must never flush the ruleset or touch another program's tables, rules or
// routes, and never enable forwarding before the rules have been read back.
package firewall
