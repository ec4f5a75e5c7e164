package provisioner

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/herald-nats/herald/internal/cli"
	"github.com/herald-nats/herald/internal/service"
)

// check prints the configurations in force. All are verified before the first is printed.
func check(stdio cli.IO, o options, configs []*service.Config) error {
	if err := distinct(o, configs); err != nil {
		return err
	}
	var all []service.Checked
	for _, c := range configs {
		k, err := c.Check()
		if err != nil {
			return err
		}
		all = append(all, k)
	}
	for i, k := range all {
		if o.json {
			if err := cli.JSON(stdio.Out, k); err != nil {
				return err
			}
			continue
		}
		if i > 0 {
			if err := cli.Print(stdio.Out, "\n"); err != nil {
				return err
			}
		}
		if err := cli.Table(stdio.Out, rows(k)); err != nil {
			return err
		}
	}
	return nil
}

// rows are a configuration for a person.
func rows(k service.Checked) [][]string {
	// or marks a key that the file does not have.
	or := func(key, value, why string) string {
		if slices.Contains(k.Defaults, key) {
			return value + "  (" + why + ")"
		}
		return value
	}
	all := [][]string{
		{"config", cli.Line(k.Config)},
		{"service", k.Service},
		{"region", k.Region.String() + " (home is " + k.Home.String() + ")"},
		{"urls", or("urls", cli.Line(strings.Join(k.URLs, " ")), "of the platform document")},
		{"state", or("state", cli.Line(k.State), "default")},
		{"operator", k.Operator},
		{"document", k.Document},
	}
	for _, c := range k.Credentials {
		ends := "never ends"
		if !c.Expires.IsZero() {
			ends = "ends " + c.Expires.UTC().Format(time.DateTime) + "Z"
		}
		all = append(all, []string{c.File, c.User + ", " + ends})
	}
	if k.RegionKey != "" {
		all = append(all, []string{"region key", k.RegionKey}, []string{"role keys", strings.Join(k.RoleKeys, " ")})
	}
	if k.SigningKey != "" {
		all = append(all, []string{"signing key", k.SigningKey}, []string{"accounts", strconv.Itoa(k.Accounts)})
	}
	tls := "authorities of the system"
	if k.TLS.Authorities {
		tls = "authorities of the folder"
	}
	if k.TLS.Certificate {
		tls += ", a certificate"
	}
	all = append(all, []string{"tls", tls})
	for _, w := range k.Warnings {
		all = append(all, []string{"warning", cli.Line(w)})
	}
	return all
}
