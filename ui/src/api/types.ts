import type { components } from './schema'

type Schemas = components['schemas']

// The names that the pages use for the shapes of the OpenAPI file.
export type Me = Schemas['Me']
export type Status = Schemas['Status']
export type Pending = Schemas['PendingCommit']
export type Condition = Schemas['StateCondition']
export type Notice = Schemas['StateNotice']
export type Peer = Schemas['Peer']
export type PeerInput = Schemas['PutPeerInBody'] & { name: string }
export type PeerCreated = Schemas['PeerCreated']
export type Preview = Schemas['Preview']
export type SettingChange = Schemas['Setting']
export type Cut = Schemas['StateCut']
export type RevisionInfo = Schemas['RevisionItem']
export type SetupStep = Schemas['SetupStep']
export type SetupInput = Schemas['SetupStepInBody']
export type SetupDone = Schemas['Claimed']
export type Exit = Schemas['Exit']
export type ExitInput = Schemas['AddExitInBody']
export type ExitParsed = Schemas['ExitParsed']
export type ExitTest = Schemas['ExitTest']
export type Explanation = Schemas['Explanation']
export type ExplainQuery = Schemas['ExplainQuery']
export type PolicyResult = Schemas['PolicyResult']
export type Session = Schemas['SessionInfo']
/** Anything may answer for the cell (a proxy, a portal), so no field is taken for granted. */
export type Problem = Partial<Schemas['Problem']>
