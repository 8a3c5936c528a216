/** Whether someone was logged in since this page was loaded: the login page then says that the session ended. */
let seen = false

export const session = {
  begin() {
    seen = true
  },
  seen: () => seen,
}
