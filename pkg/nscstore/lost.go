package nscstore

import (
	"encoding/base64"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/jwt/v2"
)

// Lost names the members of the operator's JWT that would be gone or changed if
// its claims were signed anew, such as "nats.new_feature": those that a later
// version of nsc has and this one does not know. It is empty for what
// this version knows all of.
func (o Operator) Lost() []string { return lost(o.token, o.claims) }

// Lost is what Operator.Lost is, of the account's JWT.
func (a Account) Lost() []string { return lost(a.token, a.claims) }

// Lost is what Operator.Lost is, of the user's JWT.
func (u User) Lost() []string { return lost(u.token, u.claims) }

func lost(token string, claims jwt.Claims) []string {
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		return []string{"."} // not after Parse: it decoded the same
	}
	again, err := json.Marshal(claims)
	if err != nil {
		return []string{"."}
	}
	var paths []string
	compare("", number(payload), number(again), &paths)
	slices.Sort(paths)
	return paths
}

// number decodes JSON with its numbers as they are written: as floats, two
// that differ could be one.
func number(data []byte) any {
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil
	}
	return v
}

// compare notes where a has something that b has not, or has otherwise.
func compare(path string, a, b any, paths *[]string) {
	switch a := a.(type) {
	case map[string]any:
		if b, ok := b.(map[string]any); ok {
			for name, v := range a {
				compare(strings.TrimPrefix(path+"."+name, "."), v, b[name], paths)
			}
			return
		}
	case []any:
		b, ok := b.([]any)
		if strings.HasSuffix(path, "nats.signing_keys") {
			a, b = byKey(a), byKey(b)
		}
		if ok && len(a) == len(b) {
			for i, v := range a {
				compare(path+"["+strconv.Itoa(i)+"]", v, b[i], paths)
			}
			return
		}
	}
	if !reflect.DeepEqual(a, b) && (!empty(a) || !empty(b)) {
		*paths = append(*paths, brief(path))
	}
}

// empty is what a member that is left out means.
func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case string:
		return v == ""
	case json.Number:
		return v == "0"
	case []any:
		return len(v) == 0
	case map[string]any:
		for _, m := range v {
			if !empty(m) {
				return false
			}
		}
		return true
	}
	return false
}

// byKey sorts signing keys, plain and scoped, as jwt/v2 writes them.
func byKey(keys []any) []any {
	key := func(v any) string {
		if m, ok := v.(map[string]any); ok {
			v = m["key"]
		}
		s, _ := v.(string)
		return s
	}
	keys = slices.Clone(keys)
	slices.SortStableFunc(keys, func(a, b any) int { return strings.Compare(key(a), key(b)) })
	return keys
}
