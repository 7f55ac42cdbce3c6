// Escape closes the definition of a term, until another one is pointed at or reached.
const closed = document.documentElement.classList;
document.addEventListener("keydown", (event) => event.key === "Escape" && closed.add("definitions-closed"));
for (const reached of ["mouseover", "focusin"]) {
  document.addEventListener(reached, () => closed.remove("definitions-closed"));
}
