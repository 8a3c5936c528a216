package main

// table is the list of mutants, by room.
func table() []mutant {
	var out []mutant
	for _, t := range [][]mutant{firewallTable(), stateTable(), identityTable(), dnsTable(), webTable()} {
		out = append(out, t...)
	}
	return out
}

func firewallTable() []mutant {
	const (
		guard  = "firewall/compile_guard.go"
		rules  = "firewall/compile.go"
		routes = "firewall/compile_routes.go"
		rows   = "firewall/packets.go"
		layers = "TestEachLayerStopsItsPacketsByItself"
	)
	return []mutant{
		{
			guards: "guard: a source that is nobody's, IPv4", file: guard, test: layers,
			old: `{Match: []Match{ours, notIn("ours4", SAddr4)}, Count: true, Do: drop,`,
			new: `{Match: []Match{ours, notIn("ours4", SAddr4)}, Count: true, Do: accept,`,
		},
		{
			guards: "guard: a source that is nobody's, IPv6", file: guard, test: layers,
			old: `{Match: []Match{ours, notIn("ours6", SAddr6)}, Count: true, Do: drop,`,
			new: `{Match: []Match{ours, notIn("ours6", SAddr6)}, Count: true, Do: accept,`,
		},
		{
			guards: "guard: no mark, no way", file: guard, test: layers,
			old: `{Match: []Match{ours, {Fields: []Field{Mark}, Mask: cell.MarkMask}}, Count: true, Do: drop, Comment: "guard: no mark"},`,
		},
		{
			guards: "guard: a mark's traffic by no other interface", file: guard, test: layers,
			old: `{Match: []Match{ours}, Count: true, Do: drop, Comment: "guard: another way"},`,
		},
		{
			guards: "guard: nothing from an exit's link to the uplink", file: guard, test: layers,
			old: `{Match: []Match{exit, notIn("ours_if", OutIf)}, Count: true, Do: drop,`,
			new: `{Match: []Match{exit, in("ours_if", OutIf)}, Count: true, Do: drop,`,
		},
		{
			guards: "guard: an exit reaches nothing of the cell unasked", file: guard, test: layers,
			old: `{Match: []Match{exit}, Count: true, Do: drop, Comment: "guard: unsolicited from an exit"},`,
		},
		{
			guards: "guard: the cell's own packets with an exit's mark", file: rows, test: layers,
			old: `Match: []Match{in("exit_mark", Mark)}, Do: drop,`,
			new: `Match: []Match{in("exit_mark", Mark)}, Do: accept,`,
		},
		{
			guards: "guard: the cell's own packets from an exit's address", file: rows, test: layers,
			old: `Match: []Match{in("exit_address", SAddr)}, Do: drop,`,
			new: `Match: []Match{in("exit_address", SAddr)}, Do: accept,`,
		},
		{
			guards: "guard: what no relay takes is not answered by the cell itself", file: rows, test: layers,
			old: `and all else through a dialed exit", "", Reject),`,
			new: `and all else through a dialed exit", "", Accept),`,
		},
		{
			guards: "rules: a source in no map is unknown", file: rules, test: layers,
			old: `Mask: cell.MarkMask}}, Count: true, Do: drop, Comment: "unknown source"},`,
			new: `Mask: cell.MarkMask}}, Count: true, Do: Action{Kind: Continue}, Comment: "unknown source"},`,
		},
		{
			guards: "rules: no mark from outside", file: rules, test: layers,
			old: `{Do: Action{Kind: SetMark, Mark: 0}, Comment: "no mark from outside"},`,
		},
		{
			guards: "anti-spoofing, IPv4", file: rules, test: layers,
			old: `{Match: []Match{not(InIf, name("lo")), in("ours4", SAddr4)}, Count: true, Do: drop, Comment: "spoofed source"},`,
		},
		{
			guards: "anti-spoofing, IPv6", file: rules, test: layers,
			old: `{Match: []Match{not(InIf, name("lo")), in("ours6", SAddr6)}, Count: true, Do: drop, Comment: "spoofed source"},`,
		},
		{
			guards: "what no row lets through is dropped", file: rules, test: layers,
			old: `policy := Hook{Type: "filter", Drop: c.full}`, new: `policy := Hook{Type: "filter"}`,
		},
		{
			guards: "rules: a peer leaves by its mark's own interface only", file: rows, test: layers,
			old: `{ID: "peer: no way", From: FromPeer, To: ToAny, What: "all else", Do: drop,`,
			new: `{ID: "peer: no way", From: FromPeer, To: ToAny, What: "all else", Do: accept,`,
		},
		{
			guards: "what no relay carries is refused with an answer", file: rules, test: "TestWhatARelayDoesNotTakeIsRefused",
			old: `Match: []Match{not(L4Proto, num(protoTCP))}, Count: true, Do: Action{Kind: Reject},`,
			new: `Match: []Match{not(L4Proto, num(protoTCP))}, Count: true, Do: Action{Kind: Continue},`,
		},
		{
			guards: "marks: a peer has the mark of its exit", file: "firewall/compile_sets.go", test: "TestLifeOfAPacket",
			old: `mark = []Value{num(c.s.MarkOf(c.s.Way(exit, &c.f)))}`, new: `mark = []Value{num(markDirect)}`,
		},
		{
			guards: "marks: so has a service's egress", file: "firewall/compile_sets.go", test: "TestLifeOfAPacket",
			old: `Data: []Value{num(c.s.MarkOf(c.s.Way(v.Egress, &c.f)))}, Pointer`, new: `Data: []Value{num(markDirect)}, Pointer`,
		},
		{
			guards: "policy rules: no mark, no route", file: routes, test: layers,
			old: `add(RoutingRule{Priority: prioNoMark, InIf: dev, Mask: cell.MarkMask, Action: Prohibit})`,
		},
		{
			guards: "policy rules: only direct sees table main, IPv6 too", file: routes, test: layers,
			old: `add(RoutingRule{Priority: prioDirect + 1, InIf: dev, Action: Prohibit})`,
			new: "if family == 4 {\nadd(RoutingRule{Priority: prioDirect + 1, InIf: dev, Action: Prohibit})\n}",
		},
		{
			guards: "policy rules: an exit's mark and nothing else", file: routes, test: layers,
			old: `add(RoutingRule{Priority: prio + 1, Mark: e.Mark(), Mask: cell.MarkMask, Action: Prohibit})`,
		},
		{
			guards: "policy rules: an exit's address and nothing else", file: routes, test: layers,
			old: `add(RoutingRule{Priority: prio + 1, From: a, Action: Prohibit})`,
		},
		{
			guards: "exit tables end in unreachable", file: routes, test: layers,
			old: `out = append(out, Route{Table: table, Prefix: all, Kind: Unreachable, Metric: WorstMetric})`,
		},
		{
			guards: "a dialed exit's traffic is delivered here, never routed", file: routes, test: layers,
			old: `out = append(out, Route{Table: table, Prefix: all, Kind: Local, Dev: "lo", Metric: metricLink})`,
			new: `out = append(out, Route{Table: table, Prefix: all, Dev: c.uplink, Metric: metricLink})`,
		},
		{
			guards: "forwarding comes last", file: "firewall/controller.go", test: "TestWithoutItsRulesNothingIsForwarded",
			old: `{"applying the guard table", func`,
			new: `{"forwarding", func() (bool, error) { return applySysctls(p.Forwarding) }},` + "\n" + `{"applying the guard table", func`,
		},
		{
			guards: "an unclaimed cell does not forward", file: routes, test: "TestForwardingComesLast",
			old: "if !c.s.Claimed() {\n\t\treturn nil\n\t}\n\treturn []Sysctl{", new: "return []Sysctl{",
		},
		{
			guards: "a moved peer's flows end", file: "firewall/controller.go", test: "TestMovedPeersLoseTheirConnections",
			old: `changed, err := endSessions(c.cut)`, new: `changed, err := endSessions(nil)`,
		},
		{
			guards: "the machine is closed before the cell is up", file: "firewall/early.go", test: "TestTheMachineIsClosedUntilTheFirstApply",
			old: `{Name: "forward", Hook: &Hook{Type: "filter", At: "forward", Priority: -20, Drop: true}},`,
			new: `{Name: "forward", Hook: &Hook{Type: "filter", At: "forward", Priority: -20}},`,
		},
		{
			guards: "who may use the setup before the claim", file: rows, test: "TestUnclaimedCellIsSetUpFromPrivateSourcesOnly",
			old: `Match: []Match{in("private", SAddr), in("web_ports", L4Proto, DPort)}, Do: accept,`,
			new: `Match: []Match{in("web_ports", L4Proto, DPort)}, Do: accept,`,
		},
		{
			guards: "a tunnel address is one peer's proof", file: "tunnel/compile.go", test: "TestPlanInTheFieldsNotation", quick: true,
			old: `netip.PrefixFrom(a, a.BitLen())`, new: `netip.PrefixFrom(a, a.BitLen()-8).Masked()`,
		},
		{
			guards: "expired and disabled peers are not let in", file: "tunnel/compile.go", test: "TestDisabledAndExpiredPeersAreNotLetIn",
			old: `p.Enabled && !expired[p.Name] {`, new: `expired != nil {`,
		},
		{
			guards: "a private key that is not the public key's is not set", file: "tunnel/diff.go", test: "TestAPrivateKeyThatIsNotThePublicKeysIsRefused",
			old: `if pub != want.PublicKey {`, new: `if false {`,
		},
	}
}

func stateTable() []mutant {
	const (
		atomic  = "internal/atomicfile/atomicfile.go"
		order   = "TestContentIsSyncedBeforeTheRenameAndTheFolderAfter"
		pointer = "datastore/pointer.go"
		commit  = "reconcile/commit.go"
	)
	return []mutant{
		{
			guards: "content is on the disk before its name", file: atomic, test: order, quick: true,
			old: "if err = f.Sync(); err != nil {\n\t\treturn err\n\t}\n", new: "",
		},
		{
			guards: "the name is on the disk before success is reported", file: atomic, test: order, quick: true,
			old: `return SyncDir(dir)`, new: `return nil`,
		},
		{
			guards: "the old content stands until the new one is whole", file: atomic, test: order, quick: true,
			old: `f, err := os.CreateTemp(dir, tmpPrefix+filepath.Base(path)+"-*")`, new: `f, err := os.Create(path)`,
		},
		{
			guards: "an unsynced startup is put back", file: pointer, test: "TestAPointerThatCannotBeSyncedIsPutBack",
			old: `if old := s.revisions[s.startup]; old != nil {`, new: `if old := s.revisions[s.startup]; old == nil {`,
		},
		{
			guards: "startup fits one document only", file: "datastore/load.go", test: "TestStartupFitsOneDocumentOnly",
			old: `if len(sums) > 0 && !slices.Contains(sums, h.SHA256) {`, new: `if len(sums) > 0 && h.SHA256 == "" {`,
		},
		{
			guards: "a revision is the document it says it is", file: "datastore/revision.go", test: "TestStartupFitsOneDocumentOnly",
			old: `case hex.EncodeToString(sum[:]) != h.SHA256:`, new: `case hex.EncodeToString(sum[:]) == "":`,
		},
		{
			guards: "an old copy of startup is noticed", file: "datastore/load.go", test: "TestAnOldStartupWithoutItsWitnessIsNoticed",
			old: `if startupErr == nil && startup.Revision < known {`, new: `if false {`,
		},
		{
			guards: "a lone remainder is no fresh cell", file: "datastore/load.go", test: "TestALoneRemainderIsNotAFreshCell", in: "cmd/pic",
			old: `if len(history) > 0 || len(s.marks) > 0 || s.highest > 1 || kinds > 1 {`, new: `if len(history) < 0 || kinds < 0 {`,
		},
		{
			guards: "what was not acknowledged did not happen", file: "datastore/load.go", test: "TestUnacknowledgedRevisionsDoNotSurviveARestart",
			old: `if n > startup.Revision && s.marks[n] == "" {`, new: `if false {`,
		},
		{
			guards: "a secret never changes under its reference", file: "datastore/secrets.go", test: "TestSecretsNeverChangeUnderTheirReference",
			old: `case err == nil:`, new: `case false:`,
		},
		{
			guards: "the audit log is one chain", file: "datastore/audit.go", test: "TestTamperedAuditIsNamedByItsFirstBrokenEntry",
			old: `case e.Prev != r.Head:`, new: `case false:`,
		},
		{
			guards: "silence takes a confirmed commit back", file: "reconcile/run.go", test: "TestSilenceTakesAConfirmedCommitBack",
			old: `l.confirm.Reset(max(0, p.ConfirmBy.Sub(l.engine.now())))`, new: `_ = p`,
		},
		{
			guards: "a pending commit is not what boots", file: commit, test: "TestARestartTakesAPendingCommitBack",
			old: `e.publishPending(c, next, o, r)`, new: `_ = e.store.SetStartup(n); e.publishPending(c, next, o, r)`,
		},
		{
			guards: "confirming after the deadline is too late", file: commit, test: "TestConfirmingAfterTheDeadlineIsTooLate",
			old: `if !e.now().Before(p.ConfirmBy) {`, new: `if p == nil {`,
		},
		{
			guards: "nothing is committed while a commit waits", file: commit, test: "TestSilenceTakesAConfirmedCommitBack",
			old: `case e.pending != nil:`, new: `case false:`,
		},
		{
			guards: "nothing is opened before what guards it", file: "reconcile/settle.go", test: "TestNothingIsAppliedBehindARequiredStageThatFails",
			old: `if err != nil && st.required {`, new: `if false {`,
		},
		{
			guards: "a stage that fails takes the commit back", file: commit, test: "TestAStageThatNewlyFailsTakesTheCommitBack",
			old: `if failed := e.worse(conditions, errs); failed != nil {`, new: `if failed := e.worse(conditions, errs); failed != nil && len(errs) == 0 {`,
		},
		{
			guards: "what was read must still be true", file: commit, test: "TestConcurrentEditsAreNotLost",
			old: `if base != 0 && e.stale(base, k) {`, new: `if false {`,
		},
		{
			guards: "a rollback brings no account back", file: commit, test: "TestRollbackKeepsIdentity",
			old: `s.Users, s.TLS.Authorities = users, authorities`, new: `_, _ = users, authorities`,
		},
		{
			guards: "secrets redact themselves in text", file: "cell/secret.go", test: "TestSecretsRedactThemselves", quick: true,
			old: `func (Secret) String() string               { return redacted }`, new: `func (s Secret) String() string { return s.value }`,
		},
		{
			guards: "… and in logs", file: "cell/secret.go", test: "TestSecretsRedactThemselves", quick: true,
			old: `func (Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }`,
			new: `func (s Secret) LogValue() slog.Value { return slog.StringValue(s.value) }`,
		},
	}
}

func identityTable() []mutant {
	const (
		guards = "auth/webguard.go"
		routes = "api/route.go"
		refuse = "TestEveryRouteRefusesWhatItsRowDoesNotAllow"
	)
	return []mutant{
		{
			guards: "administrators only", file: "auth/access.go", test: "TestAccessTable", quick: true,
			old: `allow = person && who.Role == cell.RoleAdmin`, new: `allow = person`,
		},
		{
			guards: "an unknown access lets nobody in", file: "auth/access.go", test: "TestAccessTable", quick: true,
			old: "default:\n\t\treturn Forbidden\n\t}\n\tswitch {", new: "default:\n\t\treturn Allow\n\t}\n\tswitch {",
		},
		{
			guards: "a fresh password is at most five minutes old", file: "auth/access.go", test: "TestReauthTable",
			old: `age >= 0 && age <= ReauthFor {`, new: `age >= 0 {`,
		},
		{
			guards: "every route asks who may use it", file: routes, test: refuse,
			old: `if d := auth.Allowed(r.Access, who); d != auth.Allow {`, new: `if d := auth.Allowed(r.Access, who); d == auth.SetupRequired {`,
		},
		{
			guards: "… and for the password again where its row says so", file: routes, test: "TestWhatAsksForThePasswordAgain",
			old: `r.Reauth && d != auth.Allow {`, new: `r.Reauth && d == auth.SetupRequired {`,
		},
		{
			guards: "a route without an access can't exist", file: routes, test: "TestARouteWithoutAccessCannotBeRegistered",
			old: `if !slices.Contains(auth.Accesses(), r.Access) {`, new: `if !slices.Contains(auth.Accesses(), r.Access) && r.Path == "" {`,
		},
		{
			guards: "before the claim only the setup is offered", file: "api/middleware.go", test: "TestUnclaimedCellOffersOnlySetup",
			old: `case s == nil || !s.Claimed():`, new: `case s == nil:`,
		},
		{
			guards: "before the claim no request without the code writes a file", file: "api/audit.go", test: "TestTheSetupWithstandsTheNetwork", in: "cmd/pic",
			old: `case !a.claimed() && a.cfg.Engine.Source() != "recovered":`, new: `case !a.claimed() && a.cfg.Engine.Source() == "recovered":`,
		},
		{
			guards: "keys ask for the password again", file: "api/peers.go", test: "TestWhatAsksForThePasswordAgain",
			old: `Reauth: true, Operation: op("POST", "/api/wireguard/keys"`, new: `Operation: op("POST", "/api/wireguard/keys"`,
		},
		{
			guards: "streams end with their session", file: "api/feed.go", test: "TestStreamsEndWithTheirSession",
			old: `return a.cfg.Sessions.Done(s.ID)`, new: `return nil`,
		},
		{
			guards: "a login makes the old session worthless", file: "api/authn.go", test: "TestASessionIsNewWhenAPasswordWasEntered",
			old: "a.cfg.Sessions.Revoke(old.ID)\n\t}\n\ttoken", new: "_ = old\n\t}\n\ttoken",
		},
		{
			guards: "a recovered cell is closed", file: "api/middleware.go", test: "TestDamagedStateIsAnAlarmAndClosesTheAPI", in: "cmd/pic",
			old: `case a.cfg.Engine.Source() == "recovered":`, new: `case false:`,
		},
		{
			guards: "ten tries in fifteen minutes", file: "auth/backoff.go", test: "TestAtMostTenTriesInFifteenMinutes",
			old: `if n := len(t.Times); n >= budget {`, new: `if n := len(t.Times); n < 0 {`,
		},
		{
			guards: "tries are counted before they end", file: "auth/backoff.go", test: "TestConcurrentTriesAreCountedBeforeTheyEnd",
			old: `pair.add(now, backoffTries)`,
		},
		{
			guards: "a stranger can't lock the right user out", file: "auth/backoff.go", test: "TestTheRightUserGetsInFromElsewhere",
			old: `return accountKey(account) + hex.EncodeToString(sum[:12])`, new: `return accountKey(account) + string(hex.EncodeToString(sum[:12])[:0])`,
		},
		{
			guards: "five wrong answers make a new code", file: "auth/setupcode.go", test: "TestFiveWrongAnswersMakeANewCode",
			old: `s.tries--; s.tries <= 0 {`, new: `s.tries--; s.tries <= -1000000 {`,
		},
		{
			guards: "of many claims one wins", file: "auth/claim.go", test: "TestOfAHundredClaimsExactlyOneWins",
			old: "c.state = claiming",
		},
		{
			guards: "sessions end when idle", file: "auth/sessions.go", test: "TestSessionsEndAfter30MinutesIdleAnd12Hours",
			old: `return now.Sub(x.LastSeen) >= SessionIdle || now.Sub(x.Created) >= SessionAbsolute`,
			new: `return now.Sub(x.Created) >= SessionAbsolute`,
		},
		{
			guards: "a session is bound to its user's role", file: "auth/sessions.go", test: "TestRoleChangeAndDeletionCountAtOnce",
			old: `return ok && role == x.Role && !x.expired(now)`, new: `return ok && role != "" && !x.expired(now)`,
		},
		{
			guards: "the old token is worth nothing after the password", file: "auth/sessions.go", test: "TestRenewChangesTheTokenAndNothingElse",
			old: "delete(s.byHash, x.hash)\n\tx.hash = tokenHash(renewed)", new: "x.hash = tokenHash(renewed)",
		},
		{
			guards: "only the hash of a token is kept", file: "auth/sessions.go", test: "TestTokenHas256BitsAndIsNotStored",
			old: "ID: newID(), User: user, Role: role,", new: "ID: token, User: user, Role: role,",
		},
		{
			guards: "a CSRF token is bound to its session", file: "auth/cookies.go", test: "TestTokenHas256BitsAndIsNotStored",
			old: `m := hmac.New(sha256.New, []byte(token))`, new: `m := hmac.New(sha256.New, []byte("the same for all"))`,
		},
		{
			guards: "changes carry the CSRF token", file: guards, test: "TestChangesNeedTheCSRFTokenAndJSONAndOurOrigin", in: "api",
			old: `if !CSRFMatches(SessionToken(r), r.Header.Get("X-CSRF-Token")) {`, new: `if false {`,
		},
		{
			guards: "other sites cause nothing", file: guards, test: "TestWhatOtherSitesSendHasNoEffect",
			old: `if g.cross.Check(r) != nil {`, new: `if false {`,
		},
		{
			guards: "sibling names read nothing", file: guards, test: "TestReadsFromOtherSitesAreRefusedUnlessSomebodyFollowsALink",
			old: `if !navigation {`, new: `if !navigation && r.Method == "" {`,
		},
		{
			guards: "changes are JSON", file: guards, test: "TestWhatOtherSitesSendHasNoEffect",
			old: `if mutating(r.Method) && !bare && !isJSON(sent) {`, new: `if mutating(r.Method) && !bare && !isJSON(sent) && r.Method == "" {`,
		},
		{
			guards: "other host names are answered nothing", file: guards, test: "TestThirtyHostsGetNoAnswerOfTheAPI", in: "api",
			old: `if !HostAllowed(r.Host, g.names(), g.addresses()) {`, new: `if false {`,
		},
		{
			guards: "cookies no sibling can plant", file: "auth/cookies.go", test: "TestCookiesAreHostOnly",
			old: `Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode`, new: `Secure: true, SameSite: http.SameSiteStrictMode`,
		},
		{
			guards: "a token does what its scopes say", file: "api/tokens.go", test: "TestATokenMayDoWhatItsScopesSayAndNoMore",
			old: `if !kept.Allows(r.Method, r.URL.Path) {`, new: `if kept == nil {`,
		},
		{
			guards: "no scope holds a path that is not clean", file: "cell/token.go", test: "TestScopesCoverWhatTheySayAndNoMore", quick: true,
			old: `if i > 0 && (g == "" || g == "." || g == "..") {`, new: `if i > 0 && g == "" {`,
		},
		{
			guards: "a token ends", file: "auth/tokens.go", test: "TestTokensSpeakForTheirUserUntilTheyEnd",
			old: `return now.Before(k.Expires) && !now.Before(k.Created)`, new: `return true`,
		},
		{
			guards: "a code of the second factor is good once", file: "auth/totp.go", test: "TestACodeIsGoodOnceAlsoAcrossARestart",
			old: `[]byte(code)) == 1 && s > after {`, new: `[]byte(code)) == 1 {`,
		},
		{
			guards: "a user is not touched by another", file: "api/authn.go", test: "TestAPeerCannotTouchAnothersThings",
			old: `if s.ID == in.ID && (id.Role == cell.RoleAdmin || s.User == id.User) {`, new: `if s.ID == in.ID && id.Via != "" {`,
		},
	}
}

func dnsTable() []mutant {
	return []mutant{
		{
			guards: "views are chosen by the interface too", file: "dns/table.go", test: "TestForgedSourcesFromTheUplinkSeeNothing",
			old: `if link == cell.TunnelLink {`, new: `if _, peer := t.peers[src]; link == cell.TunnelLink || peer {`,
		},
		{
			guards: "a bridge's source is in its prefix", file: "dns/table.go", test: "TestViews",
			old: "return b.audience\n\t\t}\n\t\treturn nil", new: "return b.audience\n\t\t}\n\t\treturn b.audience",
		},
		{
			guards: "answers that point into the home are stripped", file: "dns/filter.go", test: "TestRebinding",
			old: "if rebind {", new: "if false {",
		},
		{
			guards: "… IPv6 that carries IPv4 as well", file: "dns/filter.go", test: "TestRebinding",
			old: "if a.Is4In6() { // no AAAA record has a reason to hold one\n\t\treturn true", new: "if a.Is4In6() {\n\t\treturn false",
		},
		{
			guards: "records of other names are not taken", file: "dns/filter.go", test: "TestOnlyWhatAnswersIsTaken",
			old: `if !chain[owner] {`, new: `if false {`,
		},
		{
			guards: "forged answers are not believed", file: "dns/upstream.go", test: "TestForgedAnswersAreNotBelieved",
			old: `answers(m, q, true) {`, new: `true {`,
		},
		{
			guards: "a forwarder's redirects are not followed", file: "dns/upstream.go", test: "TestADoHForwarderLeadsNowhereElse",
			old: `return http.ErrUseLastResponse }}`, new: `return nil }}`,
		},
		{
			guards: "a forwarder is dialed at its address alone", file: "dns/upstream.go", test: "TestADoHForwarderLeadsNowhereElse",
			old: `return u.connect(ctx, "tcp") },`, new: "d, err := u.dial()\nif err != nil {\nreturn nil, err\n}\nreturn d.DialContext(ctx, \"tcp\", u.conf.ServerName+\":443\") },",
		},
		{
			guards: "floods are limited", file: "dns/wire.go", test: "TestForgedSourcesAreNotFlooded",
			old: `limited := a == t.internet && !s.rate.take(from.src, time.Now())`, new: `limited := false`,
		},
		{
			guards: "nothing amplifies", file: "dns/server.go", test: "TestNoQueryTypeAmplifies",
			old: `limit = min(limit, amplification*len(wire))`,
		},
		{
			guards: "answers fit every path", file: "dns/query.go", test: "TestAnswersStaySmall",
			old: `q.size = min(max(int(opt.UDPSize()), negNoEDNS), maxUDP)`, new: `q.size = max(int(opt.UDPSize()), negNoEDNS)`,
		},
		{
			guards: "names follow the exit or are not asked", file: "dns/server.go", test: "TestWithoutDialersAnExitGetsServfail",
			old: `return nil, fmt.Errorf("exit %s carries no names yet", exit)`, new: `return direct, nil`,
		},
		{
			guards: "what a peer may not see looks like no name", file: "dns/wire.go", test: "TestOneNameHoldsHiddenRecords",
			old: "if !a.sees(s.service) {\n\t\t\tcontinue", new: "if false {\n\t\t\tcontinue",
		},
		{
			guards: "a listener that stays is not touched", file: "internal/listen/listen.go", test: "TestWhatStaysIsNotTouchedAndNewOnesComeFirst", quick: true,
			old: `if _, there := s.byAddr[a]; there {`, new: `if _, there := s.byAddr[a]; there && changed {`,
		},
		{
			guards: "an unsynchronised clock says so", file: "ntp/clock.go", test: "TestAnUnsynchronisedClockSaysSo",
			old: `return Reading{Leap: leapUnknown, Stratum: stratumUnsynchronised,`, new: `return Reading{Leap: leapNone, Stratum: stratumUnsynchronised,`,
		},
		{
			guards: "the kernel's word on its clock counts", file: "ntp/clock.go", test: "TestKernelStates",
			old: `tx.Status&(unix.STA_UNSYNC|unix.STA_CLOCKERR) != 0`, new: `tx.Status&unix.STA_CLOCKERR != 0`,
		},
		{
			guards: "modes 6 and 7 meet silence", file: "ntp/packet.go", test: "TestNothingIsAmplified",
			old: `b[0]&7 == modeClient && r.version`, new: `b[0]&7 != modeServer && r.version`,
		},
		{
			guards: "strangers meet silence", file: "ntp/server.go", test: "TestStrangersMeetSilence",
			old: `src.Port() == 0 || !s.plan.Load().client(from) {`, new: `src.Port() == 0 {`,
		},
		{
			guards: "the clock never goes back before what has passed", file: "ntp/floor.go", test: "TestTheFloor",
			old: `m.Last.After(floor) {`, new: `m.Last.Before(floor) {`,
		},
	}
}

func webTable() []mutant {
	const upstream = "proxy/upstream.go"
	return []mutant{
		{
			guards: "a client's identity headers never reach a service", file: upstream, test: "TestHeaderHygiene",
			old: `if claimsIdentity(key) || claimsFraming(key) {`, new: `if claimsFraming(key) {`,
		},
		{
			guards: "… however they are spelled", file: upstream, test: "TestHeaderHygiene",
			old: `k := strings.ToLower(strings.ReplaceAll(key, "_", "-"))`, new: `k := strings.ToLower(key)`,
		},
		{
			guards: "the cell's cookies never reach a service", file: upstream, test: "TestHeaderHygiene",
			old: `if pair != "" && !strings.HasPrefix(strings.ToLower(pair), "__host-pic") {`, new: `if pair != "" {`,
		},
		{
			guards: "framing in disguise is removed", file: upstream, test: "TestNoDesync",
			old: `if claimsIdentity(key) || claimsFraming(key) {`, new: `if claimsIdentity(key) {`,
		},
		{
			guards: "an ambiguous request is its connection's last", file: "proxy/handler.go", test: "TestNoDesync",
			old: `if lastOfItsConnection(r) {`, new: `if false {`,
		},
		{
			guards: "HTTP/2 requests that contradict themselves are refused", file: "proxy/handler.go", test: "TestNoDesyncFromHTTP2",
			old: `case malformed(r, to):`, new: `case false:`,
		},
		{
			guards: "only WebSocket is tunnelled", file: upstream, test: "TestOtherUpgradesAreNotTunnelled",
			old: "onlyWebSocket(r *http.Request) {\n", new: "onlyWebSocket(r *http.Request) {\n\treturn\n",
		},
		{
			guards: "trailers don't pass", file: upstream, test: "TestTrailersDoNotPass",
			old: `r.Out.Trailer = nil`,
		},
		{
			guards: "only own hosts lead to the API", file: "proxy/table.go", test: "TestForeignHostsNeverReachTheAPI",
			old: `if !t.local[to.key()] && !(to.addr.IsValid() && (t.own[to.addr] || to.addr == local)) {`, new: `if false {`,
		},
		{
			guards: "the server name is the host's", file: "proxy/handler.go", test: "TestServerNameAndHostMustAgree",
			old: `case r.TLS != nil && !to.sameServerName(r.TLS.ServerName):`, new: `case false:`,
		},
		{
			guards: "before the claim only private sources at private addresses", file: "proxy/table.go", test: "TestUnclaimedAnswersOnlyPrivateSourcesAtPrivateAddresses",
			old: `return src.IsLoopback() || private(src) && private(local)`, new: `return src.IsLoopback() || private(src)`,
		},
		{
			guards: "a service is for those it was granted to", file: "proxy/table.go", test: "TestAccessMatrix",
			old: `return v.AllPeers || v.granted[peer] || v.Anyone`, new: `return true`,
		},
		{
			guards: "a grant that is taken away ends its streams", file: "proxy/handler.go", test: "TestWebSocketOutlivesASwapButNotItsGrant",
			old: "st.cancel()\n", new: "_ = st.cancel\n",
		},
		{
			guards: "the proxy does not dial itself", file: upstream, test: "TestAnUpstreamThatIsTheProxyIsNotDialed",
			old: `(ap.Port() == t.routes.HTTPSPort || ap.Port() == t.routes.HTTPPort) {`, new: `ap.Port() == 0 {`,
		},
		{
			guards: "an upstream is an address on a network of ours", file: "cell/service.go", test: "TestUpstreamsThatTheStateRefuses", in: "proxy",
			old: `case !a.IsPrivate():`, new: `case !a.IsPrivate() && a.Is6():`,
		},
		{
			guards: "connections are capped per source", file: "proxy/accept.go", test: "TestConnectionsAreCapped",
			old: `if mine >= maxConnsPerSource {`, new: `if mine >= maxConns {`,
		},
		{
			guards: "a stolen key signs for no other names", file: "certs/authority.go", test: "TestNameConstraintsBindTheStolenKey",
			old: `PermittedDNSDomains:         domains,`, new: `PermittedDNSDomains:         append([]string{"com"}, domains...),`,
		},
		{
			guards: "… and no public addresses", file: "certs/authority.go", test: "TestNameConstraintsBindTheStolenKey",
			old: `PermittedIPRanges:           permittedRanges(),`,
		},
		{
			guards: "constraints are critical", file: "certs/authority.go", test: "TestBothAuthorityCertificatesCarryTheConstraints",
			old: `PermittedDNSDomainsCritical: true,`,
		},
		{
			guards: "the issuing authority makes no other", file: "certs/authority.go", test: "TestTheIssuingAuthorityCanMakeNoOther",
			old: `template.MaxPathLen, template.MaxPathLenZero = 0, true`,
		},
		{
			guards: "only what is wanted is signed", file: "certs/issuer.go", test: "TestTheIssuerRefusesForeignRequests",
			old: "if !wanted[n] {", new: "if false {",
		},
	}
}
