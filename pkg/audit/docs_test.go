package audit_test

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/herald-nats/herald/pkg/audit"
)

// The block of docs/audit.md is one, with the sum and the parts that the page says.
func TestDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```\n{\"herald_audit\":1,")
	data, _, _ := strings.Cut(rest, "\n```")
	data = `{"herald_audit":1,` + data
	b, err := audit.Open("ams.UBOMUOPZVYODR62D37CE5WFDTTBLTZVCFGIDLMRTDATQ4TOAUWHF3FKL", data)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) != 699 || strings.LastIndexByte(data, '\n')+1 != 613 || len(b.Content) != 1 {
		t.Errorf("%d bytes, the signature at %d", len(data), strings.LastIndexByte(data, '\n')+1)
	}
	if !strings.Contains(string(page), "`"+b.Sum+"`") {
		t.Errorf("the page does not have the sum %s", b.Sum)
	}
}

// The page names each member that a record or a head of a block may have: whoever finds another one is to
// believe neither.
func TestMembersAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, of := range []reflect.Type{reflect.TypeFor[audit.Record](), reflect.TypeFor[audit.Head]()} {
		for i := range of.NumField() {
			name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
			if name != "-" && !strings.Contains(string(page), "`"+name+"`") {
				t.Errorf("the page does not name `%s` of %s", name, of)
			}
		}
	}
}
