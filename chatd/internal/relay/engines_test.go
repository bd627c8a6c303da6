package relay

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// There are two engines: one parks idle connections; the other, for systems
// without a poller, leaves each its goroutine. Every test of a relay runs over
// both: by its own name over the one that this system has, and from here over the
// other. Except for those that look at parking itself, which stand in the files of
// Linux (park_linux_test.go), and that of allocations, which has both in its table.
var overBothEngines = []func(*testing.T){
	TestAuthLate, TestAuthRefused, TestNothingButAuthFromStrangers, TestMalformedMessages, TestOversizedMessages,
	TestAuthAgainExtends, TestAuthAgainIsLimited, TestConnectionsPerAccount, TestAnIssuerThatCannotBeReached,
	TestTheTicketEnds, TestAuthAgainAfterTheTicketHasEnded, TestTheTicketOfAnIdleConnectionEnds,
	TestAParkedConnectionIsHeard, TestAPartialWriteIsFinishedByAWriter, TestControlsMixedWithData,
	TestUplinkLostAndBack, TestNoVault, TestAVaultThatBreaksTheProtocol,
	TestAClientThatDoesNotRead, TestSilentClientsArePingedAndThenCutOff, TestFloods, TestAdmission,
	TestConnectionsPerIP, TestConnectionsPerIPBehindAProxy, TestMaxConnections, TestTheFirstRequestIsReadStrictly,
	TestNothingMayComeBeforeTheAnswer, TestOtherRequests, TestSlowRequests, TestOldConnectionsEnd,
	TestSilentHandshakesKeepNobodyOut, TestFullGates, TestLimitsStandBeforeTLS, TestTLSIsResumed,
	TestFetchingKeysKeepsNobodyOut, TestWrittenMessagesAreWebSocket, TestADeviceHasLessThanItsAccount,
	TestOverridesAndReload, TestA429NamesItsLimit, TestWhatIsDroppedEndsWithAWholeFrame,
	TestMessagesThatComeInPieces, TestHalfAMessage, TestTheQueuesOfAllAreBounded, TestSendingDoesNotPutOffTheEnd,
	TestTwoRelaysOverRedis, TestADoorbellThatNoOtherDeviceHeardIsToldToTheApp, TestRedisStopsInMidway,
	TestWhatRedisIsAsked, TestASessionFromOpenToClose, TestTheVaultEndsASession,
	TestNobodyTouchesSomebodyElsesSession, TestTheVaultReachesOnlyTheConnectionThatHasTheSession,
	TestAttachAfterTheConnectionWasCut, TestTheNewestConnectionWins, TestAttachThroughAnotherRelay,
	TestSessionsAreOnTheNodeThatTheirIDNames, TestTooManySessions, TestATagThatIsTaken, TestOpensPerAccount,
	TestAttachesPerConnection, TestAnIdleClientCostsTheVaultNothing, TestDoorbells,
}

func TestConnectionsThatStayActive(t *testing.T) {
	withoutPoller = true
	defer func() { withoutPoller = false }()
	for _, test := range overBothEngines {
		t.Run(nameOf(test), test)
	}
}

func nameOf(test func(*testing.T)) string {
	_, name, _ := strings.Cut(filepath.Base(runtime.FuncForPC(reflect.ValueOf(test).Pointer()).Name()), ".")
	return name
}

// Whoever adds a test of a relay adds it above.
func TestEveryTestOfARelayRunsOverBothEngines(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, test := range overBothEngines {
		listed[nameOf(test)] = true
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			f, _ := d.(*ast.FuncDecl)
			if f == nil || !strings.HasPrefix(f.Name.Name, "Test") || strings.HasSuffix(name, "_linux_test.go") {
				continue
			}
			if startsRelay(f.Body) != listed[f.Name.Name] {
				t.Errorf("%s: %s starts a relay: %v, runs over both engines: %v", name, f.Name.Name, startsRelay(f.Body), listed[f.Name.Name])
			}
			delete(listed, f.Name.Name)
		}
	}
	if len(listed) > 0 {
		t.Errorf("not found: %v", listed)
	}
}

// startsRelay says whether a test calls one of the functions that do.
func startsRelay(body *ast.BlockStmt) (starts bool) {
	ast.Inspect(body, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if f, ok := call.Fun.(*ast.Ident); ok {
				starts = starts || f.Name == "simple" || f.Name == "newHouse" || f.Name == "newPair"
			}
		}
		return !starts
	})
	return starts
}
