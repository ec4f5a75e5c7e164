package platform

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// locate finds the first value in a platform file that does not fit its key,
// and says which line, which key and what is wrong. The YAML library says the
// place of unknown and duplicate keys only, and of the rest what Go thinks.
// It gives nil where it finds nothing.
func locate(data []byte) error {
	f, err := parser.ParseBytes(data, 0)
	if err != nil || len(f.Docs) == 0 {
		return nil //nolint:nilerr // what cannot be parsed is the decoder's to say, with its place
	}
	return fits(f.Docs[0].Body, reflect.TypeFor[File](), "the file")
}

// fits walks a node and the type that it is to fill, side by side.
func fits(n ast.Node, typ reflect.Type, key string) error {
	if n == nil || n.Type() == ast.NullType {
		return nil
	}
	bad := func(err error) error {
		return fmt.Errorf("line %d: %s: %w", n.GetToken().Position.Line, key, err)
	}
	_, scalar := n.(ast.ScalarNode)
	text := n.GetToken().Value
	switch v := reflect.New(typ).Interface().(type) {
	case encoding.TextUnmarshaler:
		if !scalar {
			return bad(errors.New("one text is needed here"))
		}
		if err := v.UnmarshalText([]byte(text)); err != nil {
			return bad(err)
		}
		return nil
	case *time.Duration:
		if _, err := time.ParseDuration(text); err != nil || !scalar {
			return bad(errors.New("a duration is needed here, such as 30m or 1h30m"))
		}
		return nil
	case *string:
		if !scalar {
			return bad(errors.New("one text is needed here"))
		}
		return nil
	}
	if typ.Kind() == reflect.Slice {
		list, ok := n.(*ast.SequenceNode)
		if !ok {
			return bad(errors.New("a list is needed here"))
		}
		for _, v := range list.Values {
			if err := fits(v, typ.Elem(), key); err != nil {
				return err
			}
		}
		return nil
	}
	members, ok := n.(*ast.MappingNode)
	if !ok {
		return bad(errors.New("keys and their values are needed here"))
	}
	for _, m := range members.Values {
		name := m.Key.GetToken().Value
		for f := range typ.Fields() {
			if f.Tag.Get("yaml") != name {
				continue
			}
			if err := fits(m.Value, f.Type, name); err != nil {
				return err
			}
		}
	}
	return nil
}
