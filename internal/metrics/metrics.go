// Package metrics shows to Prometheus what services tell of themselves, over HTTP.
// It reads the numbers when somebody asks for them and keeps none. It shows no name,
// key or secret of anybody: whoever reaches the address may read all of it.
//
// docs/metrics.md says what each metric means, and when to worry.
package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/herald-nats/herald/internal/service"
	"github.com/herald-nats/herald/pkg/audit"
	"github.com/herald-nats/herald/pkg/provision"
)

// collector makes metrics of what services tell.
type collector struct {
	services func() []service.Stats // no two of the same service and region
	now      func() time.Time
	metrics  []metric
	times    *prometheus.Desc // a histogram
}

// metric is one metric, and how its values are read from what a service tells: emit is
// called for each, with values for the metric's own labels.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(s service.Stats, emit emit)
}

type emit func(v float64, labels ...string)

// Labels that every metric has, before its own.
const (
	labelService = "service"
	labelRegion  = "region"
)

func newCollector(services func() []service.Stats, now func() time.Time) *collector {
	c := &collector{services: services, now: now}
	add := func(kind prometheus.ValueType, name, help string, read func(service.Stats, emit), labels ...string) {
		labels = append([]string{labelService, labelRegion}, labels...)
		c.metrics = append(c.metrics, metric{desc: prometheus.NewDesc(name, help, labels, nil), kind: kind, read: read})
	}
	gauge := func(name, help string, read func(service.Stats) int) {
		add(prometheus.GaugeValue, name, help, func(s service.Stats, emit emit) { emit(float64(read(s))) })
	}
	counter := func(name, help string, read func(service.Stats) uint64) {
		add(prometheus.CounterValue, name, help, func(s service.Stats, emit emit) { emit(float64(read(s))) })
	}

	// Whether it works.
	gauge("herald_ready", "Whether the service is subscribed and all its connections stand.",
		func(s service.Stats) int { return number(s.Status.Ready) })
	add(prometheus.GaugeValue, "herald_credential_expires_in_seconds", "Time until a credential of the service itself ends, as its folder has it; below 0 once it has.", c.credentials, "file")
	add(prometheus.CounterValue, "herald_reloads_total", "Times that the configuration was read again on SIGHUP, by whether it was taken over, ok, or refused.",
		func(s service.Stats, emit emit) {
			emit(float64(s.Reloads.Done), "ok")
			emit(float64(s.Reloads.Refused), "refused")
		}, "outcome")

	// What is known.
	add(prometheus.GaugeValue, "herald_platform_document_info", "The version of the platform document that is in force; the value is always 1.",
		func(s service.Stats, emit emit) { emit(1, s.Document.String()) }, "version")
	gauge("herald_ledger_names", "Names that are known, those that are gone included.",
		func(s service.Stats) int { return s.Names })
	gauge("herald_ledger_decided", "Entries decided in home that are known, names not counted.",
		func(s service.Stats) int { return s.Decided })
	gauge("herald_ledger_denials", "Suspensions and revocations that are known, ended ones included.",
		func(s service.Stats) int { return s.Denials })

	// How well.
	gauge("herald_ledger_complete", "Whether the ledger was read once as a whole, from the copy on the disk or from the region's streams.",
		func(s service.Stats) int { return number(s.Complete) })
	add(prometheus.GaugeValue, "herald_ledger_age_seconds", "Time since a comparison last found that nothing of a log is lacking; absent before the first.", c.ages, "log")
	gauge("herald_ledger_copy_failing", "Whether the copy of the ledger on the disk cannot be written.",
		func(s service.Stats) int { return number(s.CopyFailing) })

	// What was met since the start.
	counter("herald_ledger_entries_applied_total", "Entries that came to hold.",
		func(s service.Stats) uint64 { return s.Ledger.Applied })
	counter("herald_ledger_entries_refused_total", "Stored entries that are not believed.",
		func(s service.Stats) uint64 { return s.Ledger.Refused })
	counter("herald_ledger_entries_ahead_total", "Stored entries that were from the future when they were read.",
		func(s service.Stats) uint64 { return s.Ledger.Ahead })
	add(prometheus.CounterValue, "herald_ledger_hints_total", "Hints that came, by whether they are believed.",
		func(s service.Stats, emit emit) {
			emit(float64(s.Ledger.Hints), "true")
			emit(float64(s.Ledger.HintsRefused), "false")
		}, "believed")
	counter("herald_ledger_lost_total", "Times that a stream of the ledger had less than before.",
		func(s service.Stats) uint64 { return s.Ledger.Lost })
	counter("herald_ledger_reads_failed_total", "Readings of a stream of the ledger that got no answer.",
		func(s service.Stats) uint64 { return s.Ledger.Failed })

	counter("herald_callers_refused_total", "Requests that were refused because what says who asks is not believed.",
		func(s service.Stats) uint64 { return s.CallersRefused })

	// Of what services write down.
	written := func(read func(*audit.Stats) float64) func(service.Stats, emit) {
		return func(s service.Stats, emit emit) {
			if s.Records != nil {
				emit(read(s.Records))
			}
		}
	}
	add(prometheus.CounterValue, "herald_requests_total", "Requests, by the door where they came in, the way in which they show who asks, and how they ended: ok or the code of the error.",
		func(s service.Stats, emit emit) {
			if s.Issuer != nil {
				for _, r := range s.Issuer.Requests.Requests {
					emit(float64(r.Count), r.Door, r.Way, r.Outcome)
				}
			}
		}, "door", "way", "outcome")
	queued := func(read func(provision.Queued, emit)) func(service.Stats, emit) {
		return func(s service.Stats, emit emit) {
			if s.Issuer != nil {
				for _, q := range s.Issuer.Requests.Queues {
					read(q, emit)
				}
			}
		}
	}
	add(prometheus.GaugeValue, "herald_requests_at_work", "Requests that are worked on now.",
		queued(func(q provision.Queued, emit emit) { emit(float64(q.AtWork), q.Door) }), "door")
	add(prometheus.CounterValue, "herald_requests_turned_away_total", "Requests that were not read: too many at work, busy; too many of one source, limited, or unanswered if that was told often enough.",
		queued(func(q provision.Queued, emit emit) {
			emit(float64(q.Busy), q.Door, "busy")
			emit(float64(q.Limited), q.Door, "limited")
			emit(float64(q.Unanswered), q.Door, "unanswered")
		}), "door", "reason")
	c.times = prometheus.NewDesc("herald_request_seconds", "How long requests that were read took, and each step of them.",
		[]string{labelService, labelRegion, "door", "step"}, nil)
	add(prometheus.GaugeValue, "herald_role_keys", "Role keys that are here, and those that the platform document offers and that are not.",
		func(s service.Stats, emit emit) {
			if s.Issuer != nil {
				emit(float64(s.Issuer.Held.RoleKeys), "here")
				emit(float64(len(s.Issuer.Held.Lacking)), "missing")
			}
		}, "state")
	add(prometheus.GaugeValue, "herald_region_key_matches", "Whether the region key is the one that the platform document names.",
		func(s service.Stats, emit emit) {
			if s.Issuer != nil {
				emit(float64(number(s.Issuer.Held.RegionKey)))
			}
		})
	add(prometheus.GaugeValue, "herald_records_waiting", "Blocks of records that wait to be stored.",
		written(func(s *audit.Stats) float64 { return float64(s.Waiting) }))
	add(prometheus.CounterValue, "herald_records_dropped_total", "Records that were given up because there was no room for them.",
		written(func(s *audit.Stats) float64 { return float64(s.Dropped) }))
	add(prometheus.GaugeValue, "herald_audit_failing", "Whether records cannot be stored now.",
		written(func(s *audit.Stats) float64 { return float64(number(s.Failing)) }))
	add(prometheus.CounterValue, "herald_audit_records_total", "Records that were stored.",
		written(func(s *audit.Stats) float64 { return float64(s.Records) }))
	add(prometheus.CounterValue, "herald_audit_blocks_total", "Blocks of records that were stored.",
		written(func(s *audit.Stats) float64 { return float64(s.Blocks) }))
	add(prometheus.CounterValue, "herald_audit_refused_total", "Requests that got no credential because it could not be recorded.",
		written(func(s *audit.Stats) float64 { return float64(s.Refused) }))

	// Of registrars.
	registrar := func(read func(*service.RegistrarStats) int) func(service.Stats, emit) {
		return func(s service.Stats, emit emit) {
			if s.Registrar != nil {
				emit(float64(read(s.Registrar)))
			}
		}
	}
	add(prometheus.GaugeValue, "herald_denials_unstored", "Denials in force that the region's stream was not seen to have.",
		registrar(func(s *service.RegistrarStats) int { return s.Unstored }))
	add(prometheus.GaugeValue, "herald_clock_ahead_seconds", "By how much the machine's clock is ahead of most servers'; below 0 behind; absent while none has said what time it is.",
		func(s service.Stats, emit emit) {
			if s.Registrar != nil && s.Registrar.Clock != nil {
				emit(s.Registrar.Clock.Seconds())
			}
		})
	add(prometheus.GaugeValue, "herald_holdings", "Identities that hold a user with a credential.",
		registrar(func(s *service.RegistrarStats) int { return s.Holdings }))
	counted := func(read func(*service.RegistrarStats) uint64) func(service.Stats, emit) {
		return func(s service.Stats, emit emit) {
			if s.Registrar != nil {
				emit(float64(read(s.Registrar)))
			}
		}
	}
	add(prometheus.CounterValue, "herald_peers_refused_total", "Messages of other registrars with something that is not believed.",
		counted(func(s *service.RegistrarStats) uint64 { return s.PeersRefused }))
	add(prometheus.CounterValue, "herald_records_refused_total", "Records of issued credentials that are not believed.",
		counted(func(s *service.RegistrarStats) uint64 { return s.RecordsRefused }))
	add(prometheus.CounterValue, "herald_home_damaged_total", "Requests that home refused because its bucket has something that is not believed, or less than it had.",
		counted(func(s *service.RegistrarStats) uint64 { return s.Damaged }))

	add(prometheus.CounterValue, "herald_callout_disconnected_total", "Connections by auth callout that were closed because their identity may not come any more.",
		counted(func(s *service.RegistrarStats) uint64 { return s.Door.Disconnected }))
	add(prometheus.GaugeValue, "herald_callout_disconnects_waiting", "Connections by auth callout that are to be closed.",
		registrar(func(s *service.RegistrarStats) int { return s.Door.Waiting }))
	add(prometheus.CounterValue, "herald_callout_disconnects_forgotten_total", "Connections by auth callout that stay until their credential ends, because too many were to be closed.",
		counted(func(s *service.RegistrarStats) uint64 { return s.Door.Forgotten }))

	// Of registrars: how accounts are on servers.
	add(prometheus.CounterValue, "herald_accounts_looks_total", "Times that servers were asked for accounts.",
		counted(func(s *service.RegistrarStats) uint64 { return s.Servers.Looks }))
	add(prometheus.CounterValue, "herald_accounts_looks_failed_total", "Times that asking servers for accounts ended with an error.",
		counted(func(s *service.RegistrarStats) uint64 { return s.Servers.Failed }))
	add(prometheus.CounterValue, "herald_accounts_pushed_total", "Accounts that were pushed to all servers.",
		counted(func(s *service.RegistrarStats) uint64 { return s.Servers.Pushed }))
	add(prometheus.CounterValue, "herald_accounts_overwritten_total", "Accounts that somebody had pushed over with less than was there.",
		counted(func(s *service.RegistrarStats) uint64 { return s.Servers.Overwritten }))
	add(prometheus.CounterValue, "herald_accounts_foreign_total", "Account JWTs on servers that do not verify up to the platform's operator.",
		counted(func(s *service.RegistrarStats) uint64 { return s.Servers.Foreign }))
	add(prometheus.GaugeValue, "herald_accounts_out_of_line", "Accounts that some server did not hold as it should when they were last looked at.",
		registrar(func(s *service.RegistrarStats) int { return s.Servers.OutOfLine }))
	add(prometheus.GaugeValue, "herald_accounts_conflicts", "Accounts that are not pushed because different base claims have one version.",
		registrar(func(s *service.RegistrarStats) int { return s.Servers.Conflicts }))
	add(prometheus.GaugeValue, "herald_servers_behind", "Servers that did not answer the last look at accounts, or refused one.",
		registrar(func(s *service.RegistrarStats) int { return s.Servers.Behind }))
	add(prometheus.GaugeValue, "herald_denials_waiting", "Denials of whom credentials are still to be revoked.",
		registrar(func(s *service.RegistrarStats) int { return s.Revoking }))
	add(prometheus.GaugeValue, "herald_account_bytes", "Size of the account's JWT; of the largest 50.",
		func(s service.Stats, emit emit) {
			if s.Registrar != nil {
				for _, a := range s.Registrar.Servers.Largest {
					emit(float64(a.Bytes), a.Name)
				}
			}
		}, "account")
	add(prometheus.GaugeValue, "herald_account_bytes_limit", "Size of an account's JWT beyond which servers do not take it; absent before the first look.",
		func(s service.Stats, emit emit) {
			if s.Registrar != nil && s.Registrar.Servers.Limit > 0 {
				emit(float64(s.Registrar.Servers.Limit))
			}
		})
	add(prometheus.GaugeValue, "herald_accounts_age_seconds", "Time since a look at all accounts last found or left each on every server; absent before the first.",
		func(s service.Stats, emit emit) {
			if s.Registrar != nil && !s.Registrar.Servers.InLine.IsZero() {
				emit(max(0, c.now().Sub(s.Registrar.Servers.InLine).Seconds()))
			}
		})
	return c
}

func (c *collector) ages(s service.Stats, emit emit) {
	for _, a := range s.Ages {
		if !a.Since.IsZero() {
			emit(max(0, c.now().Sub(a.Since).Seconds()), a.Source)
		}
	}
}

func (c *collector) credentials(s service.Stats, emit emit) {
	for _, cred := range s.Credentials {
		if !cred.Expires.IsZero() {
			emit(cred.Expires.Sub(c.now()).Seconds(), cred.File)
		}
	}
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Describe is prometheus.Collector's.
func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	for _, m := range c.metrics {
		descs <- m.desc
	}
	descs <- c.times
}

// Collect is prometheus.Collector's.
func (c *collector) Collect(metrics chan<- prometheus.Metric) {
	for _, s := range c.services() {
		for _, m := range c.metrics {
			m.read(s, func(v float64, labels ...string) {
				labels = append([]string{s.Service, s.Region.String()}, labels...)
				metrics <- prometheus.MustNewConstMetric(m.desc, m.kind, v, labels...)
			})
		}
		if s.Issuer != nil {
			for _, t := range s.Issuer.Requests.Times {
				metrics <- c.histogram(s, t)
			}
		}
	}
}

func (c *collector) histogram(s service.Stats, t provision.StepTimes) prometheus.Metric {
	buckets := make(map[float64]uint64, len(t.Buckets))
	for _, b := range t.Buckets {
		buckets[b.Most.Seconds()] = b.Count
	}
	return prometheus.MustNewConstHistogram(c.times, t.Count, t.Sum.Seconds(), buckets, s.Service, s.Region.String(), t.Door, t.Step)
}
