package ledger

// Scheduled is how many entries there are of when users may be forgotten.
func (h *Holdings) Scheduled() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, all := range h.ends {
		n += len(all)
	}
	return n
}

// Indexed is how many users are known to be held, those of several identities once for each.
func (h *Holdings) Indexed() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.by)
	for _, o := range h.others {
		n += len(o)
	}
	return n
}
