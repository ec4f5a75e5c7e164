package registrar

// What tests in other packages' names look at.
const (
	AskEvery   = askEvery
	AdoptAfter = adoptAfter
	MaxPeer    = maxPeer
	MaxRegions = maxRegions
	MaxSources = maxSources
	MaxWait    = maxWait

	RecordsEvery = recordsEvery
)

// Sources is how many issuers and hosts are remembered.
func (l *Limits) Sources() (issuers, hosts int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.issuers), len(l.hosts)
}
