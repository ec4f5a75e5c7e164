package doctor

// standings looks at all accounts.
func (r *report) standings() {
	least, limited := r.Described.MaxPayload, r.Described.MaxPayload > 0
	if r.Seen != nil {
		for _, s := range r.Seen.Servers {
			if s.MaxPayload > 0 && (!limited || s.MaxPayload < least) {
				least, limited = s.MaxPayload, true
			}
		}
	}
	for _, a := range r.Accounts {
		where := "account " + a.Name
		if a.Conflict {
			r.add("account-conflict", Error, where, "there are different base claims of version %d", a.Version)
		}
		if a.Foreign > 0 {
			r.add("account-foreign", Error, where, "%s a JWT of it that does not verify up to the operator%s", count(a.Foreign, "server has", "servers have"), at(a.Astray))
		}
		if n := a.Behind + a.Lacking; n > 0 {
			text := a
			text.Foreign, text.Unread, text.Conflict = 0, 0, false
			r.add("account-astray", Error, where, "it is not in line: %s%s", text.Text(), at(a.Astray))
		}
		if limited {
			switch {
			case 10*a.Size >= 9*least:
				r.add("account-fat", Error, where, "its JWT has %d bytes; servers take %d (max_payload)", a.Size, least)
			case 2*a.Size >= least:
				r.add("account-fat", Warning, where, "its JWT has %d bytes; servers take %d (max_payload)", a.Size, least)
			}
		}
		r.ends("account", where, "it", a.Changed, a.Expires)
	}
}

func at(servers []string) string {
	if len(servers) == 0 {
		return ""
	}
	return " (" + list(servers) + ")"
}

// resolvers looks whether all servers answer for their accounts.
func (r *report) resolvers() {
	least := -1
	for _, a := range r.Accounts {
		if least < 0 || a.Unread < least {
			least = a.Unread
		}
	}
	// One account may be slow; that all are is the resolver.
	if least > 0 {
		r.add("resolver-partial", Error, "the servers", "%s not say which accounts %s", count(least, "of them does", "of them do"), plural(least, "it has", "they have"))
	}
}
