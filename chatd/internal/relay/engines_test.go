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
	TestAFloodedSessionHoldsUpItsOwnClientOnly, TestStrayCredit, TestWhatEndsTheWaitForCredit,
	TestNobodyIsStuckForCredit, TestAttachFillsTheWindows, TestAVaultBeyondItsWindow,
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
	TestSessionsAreOnTheNodeThatTheirIDNames, TestTooManySessions, TestATagThatIsTaken, TestALateAnswerAnswersNothingElse,
	TestOpensPerAccount, TestAttachesPerConnection, TestAnIdleClientCostsTheVaultNothing, TestDoorbells,
	TestAWriteThatTakesTooLong, TestKeysAreUpdatedLongAfterAWrite, TestCreditIsAwaitedForTwoPingsAtMost, TestADeadConnectionHoldsNoMemory, TestALostLinkEndsItsOwnSessionsOnly, TestAttachAcrossLinks,
	TestOneLinkDoesNotSpeakForTheOther,
	TestAStatusOfTheVaultThatNobodyKnows, TestADrainGoesInTheOrderOfTheWheel, TestADrainEndsWithItsTime,
	TestWhatIsNeverAnsweredIsForgotten,
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
	uses, elsewhere := map[string]map[string]bool{}, map[string]bool{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				uses[f.Name.Name] = namesIn(f.Body)
				elsewhere[f.Name.Name] = strings.HasSuffix(name, "_linux_test.go") || uses[f.Name.Name]["withoutPoller"]
			}
		}
	}
	var starts func(f string, seen map[string]bool) bool
	starts = func(f string, seen map[string]bool) bool {
		seen[f] = true
		for used := range uses[f] {
			if used == "newHouse" || !seen[used] && starts(used, seen) {
				return true
			}
		}
		return false
	}
	listed := map[string]bool{}
	for _, test := range overBothEngines {
		listed[nameOf(test)] = true
	}
	for f := range uses {
		if strings.HasPrefix(f, "Test") && !elsewhere[f] && starts(f, map[string]bool{}) && !listed[f] {
			t.Errorf("%s runs over one engine only", f)
		}
	}
}

// namesIn are the names that a function uses, but for those of fields and methods.
func namesIn(body *ast.BlockStmt) map[string]bool {
	names := map[string]bool{}
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			ast.Inspect(n.X, func(n ast.Node) bool {
				if id, ok := n.(*ast.Ident); ok {
					names[id.Name] = true
				}
				return true
			})
			return false
		case *ast.Ident:
			names[n.Name] = true
		}
		return true
	})
	return names
}
