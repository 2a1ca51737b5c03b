// The account of the user who is signed in, and the recovery of accounts. It builds on
// shop.js, which is loaded before it.
"use strict";

// submits runs what a form is for; what the API refuses is shown in the form.
function submits(form, action) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const problem = $(".problem", form), submit = $("[type=submit]", form);
    problem.hidden = true;
    submit.disabled = true;
    try {
      await action(form);
      form.reset();
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
    } finally {
      submit.disabled = false;
    }
  });
}

// --- recovery ----------------------------------------------------------------

// A letter's link has its token in the fragment, which no server sees. It is
// taken out of the address at once, so that it does not stay in the history.
let token = "";

async function followLink() {
  const [, purpose, found] = location.hash.match(/^#(verify|reset)=(.+)$/) || [];
  if (!purpose) return;
  history.replaceState(null, "", location.pathname);
  token = found;
  if (purpose === "reset") return $("#reset").showModal();
  await api("POST", "/api/users/verify", { token });
  say("Thank you: your e-mail address is verified.");
  if ($("#person").open) await showPerson();
}

submits($("#forgot form"), async (form) => {
  const { json } = await api("POST", "/api/users/forgot", { email: form.email.value });
  $("#forgot").close();
  say(sentence(json.message) + ".");
});

submits($("#reset form"), async (form) => {
  await api("POST", "/api/users/reset", { token, password: form.password.value });
  session.set(null); // every session has ended
  showAccount();
  $("#reset").close();
  openDoor(false);
  say("Your password is changed. Please sign in.");
});

// --- the account ---------------------------------------------------------------

async function showPerson() {
  const profile = (await api("GET", "/api/users/me")).json;
  $("#person-email").textContent = profile.email;
  $("#person-verified").textContent = profile.email_verified ? "verified" : "not verified";
  $("#person-verified").classList.toggle("good", profile.email_verified);
  $("#person-pending").hidden = !profile.pending_email;
  $("#person-pending").textContent = profile.pending_email ? `${profile.pending_email} replaces it when you follow the link in our e-mail.` : "";
  $("#person-letter").hidden = profile.email_verified && !profile.pending_email;
  await showSessions();
  if (!$("#person").open) $("#person").showModal();
}

async function showSessions() {
  const { json } = await api("GET", "/api/users/me/sessions");
  $("#sessions").replaceChildren(...json.map((one) => {
    const since = new Date(one.created_at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
    const line = element("li", {}, element("span", { className: "what" }, `since ${since}`));
    if (one.current) {
      line.append(element("span", { className: "state good" }, "this one"));
      return line;
    }
    const end = element("button", { type: "button", className: "quiet" }, "End");
    end.addEventListener("click", () => attempt(end, async () => {
      await api("DELETE", `/api/users/me/sessions/${one.id}`);
      await showSessions();
    }));
    line.append(end);
    return line;
  }));
}

submits($("#change-email"), async (form) => {
  await api("PATCH", "/api/users/me", { email: form.email.value, current_password: form.current_password.value });
  await showPerson();
});

submits($("#change-password"), async (form) => {
  await api("PATCH", "/api/users/me", { password: form.password.value, current_password: form.current_password.value });
  say("Your password is changed; every other session has ended.");
  await showPerson();
});

submits($("#erase"), async (form) => {
  await api("POST", "/api/users/me/erase", { current_password: form.current_password.value });
  session.set(null);
  $("#person").close();
  showAccount();
  say("Your account is erased.");
});

// --- wiring ----------------------------------------------------------------------

$("#mine").addEventListener("click", () => attempt($("#mine"), showPerson));
$("#forgotten").addEventListener("click", () => { $("#door").close(); $("#forgot").showModal(); });
$("#verification").addEventListener("click", () => attempt($("#verification"), async () => {
  const { json } = await api("POST", "/api/users/me/verification");
  say(sentence(json.message) + ".");
}));
$("#export").addEventListener("click", () => attempt($("#export"), async () => {
  const { json } = await api("GET", "/api/users/me/export");
  const address = "data:application/json;charset=utf-8," + encodeURIComponent(JSON.stringify(json, null, 2));
  element("a", { href: address, download: "account.json" }).click();
}));
for (const button of document.querySelectorAll("[data-shut]")) button.addEventListener("click", () => button.closest("dialog").close());
addEventListener("hashchange", () => followLink().catch((error) => say(error.message)));
followLink().catch((error) => say(error.message));
