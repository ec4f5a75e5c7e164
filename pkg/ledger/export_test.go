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
