package firewall

// seen is what one Apply has read of policy rules and routes. It is read once,
// and again after a change of our own.
type seen struct {
	want   []Route // whose tables are read, see listRoutes
	rules  []kernelRule
	routes []kernelRoute
	// have says which of them were read.
	haveRules, haveRoutes bool
}

func (s *seen) listRules() ([]kernelRule, error) {
	if s.haveRules {
		return s.rules, nil
	}
	var err error
	s.rules, err = listRules()
	s.haveRules = err == nil
	return s.rules, err
}

func (s *seen) listRoutes() ([]kernelRoute, error) {
	if s.haveRoutes {
		return s.routes, nil
	}
	var err error
	s.routes, err = listRoutes(s.want)
	s.haveRoutes = err == nil
	return s.routes, err
}

// rulesChanged and routesChanged are called before anything is written. With a
// policy rule, routes stay as they are, and the other way round.
func (s *seen) rulesChanged()  { s.haveRules = false }
func (s *seen) routesChanged() { s.haveRoutes = false }
